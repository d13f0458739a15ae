"""What all processes of a test run share; the fixtures stand in shared_fixtures.py."""

import gc
import os

# The processes of a run share the cores, and so do the programs that tests start: threads of each would wait for those
# of the others. PyTorch reads this when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

#: Files that take more than half a minute.
LONG = ("test_api", "test_documentation", "test_export", "test_hub", "test_interruptions", "test_training",
        "test_two_nodes", "test_video_index")  # fmt: skip


def pytest_configure(config) -> None:
    # With -n, the process that hands out the tests runs none of them, and the others wait for what it imports.
    hands_out = config.getoption("numprocesses", None) and not hasattr(config, "workerinput")
    if not hands_out or config.option.collectonly:
        config.pluginmanager.import_plugin("shared_fixtures")


def pytest_collection_modifyitems(items: list) -> None:
    """With -n, whole files are handed out in this order: the long ones come first, so that none is left at the end."""
    items.sort(key=lambda item: item.path.stem not in LONG)


def pytest_collection_finish() -> None:
    """What is imported stays until the end; left alone, each collection of garbage goes through all of it."""
    gc.collect()
    gc.freeze()
