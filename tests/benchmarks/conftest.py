"""Modules of ``benchmarks/``, imported as its script does."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def benchmark(repository: Path, monkeypatch: pytest.MonkeyPatch):
    """Imports a module of ``benchmarks/`` as running its script would."""
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    before = set(sys.modules)

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    # Their plain names must not stay behind for other tests.
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file is not None and Path(file).parent == repository / "benchmarks":
            del sys.modules[name]
