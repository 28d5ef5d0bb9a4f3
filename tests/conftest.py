"""Fixtures every test may use, and what decides whether a marked test can run here."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip GPU tests, saying why, where torch finds no GPU that Triton serves."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not (torch.cuda.is_available() or torch.xpu.is_available()):
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="torch finds no GPU here"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real captures outside the repository, for slow tests; the test is skipped where they are absent.

    ``VOXFIELD_TEST_DATA`` names the folder; ``shared/data`` beside the repository is taken otherwise.
    """
    named = os.environ.get("VOXFIELD_TEST_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs real captures: set VOXFIELD_TEST_DATA to their folder")
    return folder
