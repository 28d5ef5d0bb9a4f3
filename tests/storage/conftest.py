"""The real OpenVDB for tests that ask it a question or two."""

import subprocess

import pytest

SYSTEM_PYTHON = "/usr/bin/python3"


@pytest.fixture(scope="session")
def openvdb_python() -> str:
    """A Python that has OpenVDB: Debian's, whose OpenVDB wants a NumPy below 2. Skipped where there is none."""
    try:
        subprocess.run([SYSTEM_PYTHON, "-c", "import pyopenvdb"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs Debian's python3-openvdb")
    return SYSTEM_PYTHON
