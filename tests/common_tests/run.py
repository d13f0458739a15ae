"""Runs the common model, configuration and processor tests of the installed transformers, unchanged, on this package.

python tests/common_tests/run.py [arguments of pytest]

Their source distribution comes from the package index and stays in a cache folder; nothing of it enters the project.
Where no index can be reached the script says so and ends well.
"""

import importlib.metadata
import os
import subprocess
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "modeling_cvls"


def fetch(version: str) -> Path | None:
    """The unpacked source distribution, or None where it cannot be had."""
    folder = CACHE / f"transformers-{version}"
    if not (folder / "tests" / "__init__.py").is_file():
        CACHE.mkdir(parents=True, exist_ok=True)
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
        download += ["--no-binary", ":all:", "--dest", str(CACHE), f"transformers=={version}"]
        try:
            subprocess.run(download, stdout=subprocess.DEVNULL, timeout=300, check=True)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            return None
        with tarfile.open(CACHE / f"transformers-{version}.tar.gz") as archive:
            archive.extractall(CACHE, filter="data")
        (folder / "tests" / "__init__.py").touch()  # the distribution leaves it out
    return folder


def main(arguments: list[str]) -> int:
    version = importlib.metadata.version("transformers")
    folder = fetch(version)
    if folder is None:
        print(f"the tests of transformers {version} could not be fetched from a package index: they are not run")
        return 0
    root = HERE.parents[1]
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "TRANSFORMERS_SOURCE": str(folder), "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(root), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    suites = [str(HERE / name) for name in ("modeling.py", "processing.py", "video_processing.py")]
    # without the project's own settings of pytest: the markers are the library's
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(root), "-p", "no:warnings"]
    return subprocess.run([*command, *suites, *arguments], env=environment, cwd=root).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
