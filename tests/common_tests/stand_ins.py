"""What the source distribution of transformers leaves out of its tests, as far as the common tests import it."""

import os
import sys
import types

#: The unpacked source distribution; run.py sets it.
SOURCE = os.environ["TRANSFORMERS_SOURCE"]


def _module(name: str, **contents: object) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(contents)
    sys.modules[name] = module


class _NoTests:
    """In place of mixins for exporters and generation, which are not in the source distribution."""


sys.path.insert(0, SOURCE)
_module("tests.exporters")
_module("tests.exporters.test_export", ExportTesterMixin=type("ExportTesterMixin", (_NoTests,), {}))
_module("tests.generation")
_module("tests.generation.test_utils", GenerationTesterMixin=type("GenerationTesterMixin", (_NoTests,), {}))
_module("tests.utils")
_module("tests.utils.test_configuration_utils", config_common_kwargs={})
_module("fetch_hub_objects_for_ci", url_to_local_path=lambda url: url)
