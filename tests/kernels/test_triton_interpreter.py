"""The parity tests of the Triton kernels under its interpreter, each file in a process of its own.

TRITON_INTERPRET has to be set before anything imports triton; ``conftest.py`` leaves the same tests out of this
process. Where torch finds a GPU they run here, compiled, and this file has nothing to do.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import voxfield

HERE = Path(__file__).parent
KERNELS = Path(voxfield.__file__).parent / "kernels"
OPS = sorted(path.parent.name for path in KERNELS.glob("*/triton_gpu.py"))

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="Triton is installed on Linux only"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="the parity tests ran compiled, on the GPU"),
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") == "1", reason="the parity tests run in this process already"
    ),
]


@pytest.mark.timeout(600)  # a third of a millisecond for every operation of every program
@pytest.mark.parametrize("op", OPS)
def test_triton_parity(op):
    command = [sys.executable, "-m", "pytest", str(HERE / f"test_{op}.py"), "-q", "-p", "no:cacheprovider"]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTEST_ADDOPTS": "", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTEST_XDIST_WORKER", None)
    result = subprocess.run(
        [*command, "-k", "triton"], env=environment, capture_output=True, text=True, check=False, cwd=HERE.parent.parent
    )
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]
    passed = re.search(r"(\d+) passed", result.stdout)
    assert passed, "no test of the triton implementation was found"
    assert int(passed[1]) >= 5
    assert "skipped" not in result.stdout


def test_every_triton_kernel_is_compiled_in_a_test():
    compiled = (HERE / "test_triton_compiles.py").read_text(encoding="utf-8")
    assert [op for op in OPS if f'compile_kernels_of("{op}"' not in compiled] == []
