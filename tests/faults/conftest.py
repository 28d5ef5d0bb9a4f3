"""The campaigns' own modules, and places that a test can fill, close or hold."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).resolve().parent


def load(name: str, path: Path) -> ModuleType:
    """A module of the tests, by its path: tests are no package."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        # Dataclasses look their module up by name.
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def harness() -> ModuleType:
    """``harness.py``: jobs that are killed."""
    return load("fault_harness", HERE / "harness.py")


@pytest.fixture(scope="session")
def jobs(harness: ModuleType) -> ModuleType:
    """``jobs.py``: which jobs are killed."""
    return load("fault_jobs", HERE / "jobs.py")


@pytest.fixture(scope="session")
def web_servers() -> type:
    """The web server of the tests of downloading."""
    return load("servers", HERE.parent / "servers.py").Web


@pytest.fixture(scope="session")
def mutations() -> ModuleType:
    """``mutations.py``: files that are spoiled."""
    return load("fault_mutations", HERE / "mutations.py")


@pytest.fixture(scope="module")
def nursery(harness: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """A warm parent of calls of the command line."""
    with harness.Nursery(tmp_path_factory.mktemp("calls")) as found:
        yield found


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An empty disk of 4 MB."""
    folder = tmp_path / "disk"
    with mounted(folder, "size=4m") as found:
        yield found


class mounted:
    """A file system in memory at ``folder``, for a block; the test is skipped where that is not allowed."""

    def __init__(self, folder: Path, options: str) -> None:
        self.folder, self.options = folder, options

    def __enter__(self) -> Path:
        self.folder.mkdir(exist_ok=True)
        if os.geteuid() != 0 or shutil.which("mount") is None:
            pytest.skip("mounting a small disk needs root, and mount")
        command = ["mount", "-t", "tmpfs", "-o", self.options, "voxfield-test", str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
        return self.folder

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)
