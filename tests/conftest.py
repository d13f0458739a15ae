"""What all processes of a test run share; the fixtures stand in shared_fixtures.py."""

import gc
import os

# The processes of a run share the cores, and so do the programs that tests start: threads of each would wait for those
# of the others. PyTorch reads this when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config) -> None:
    # With -n, the process that hands out the tests runs none of them, and the others wait for what it imports.
    hands_out = config.getoption("numprocesses", None) and not hasattr(config, "workerinput")
    if not hands_out or config.option.collectonly:
        config.pluginmanager.import_plugin("shared_fixtures")


def pytest_collection_finish() -> None:
    """What is imported stays until the end; left alone, each collection of garbage goes through all of it."""
    gc.collect()
    gc.freeze()
