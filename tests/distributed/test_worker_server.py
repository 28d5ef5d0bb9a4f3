"""A script that runs a job on several processes needs no ``if __name__ == "__main__"``; nor does the command wait."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from voxfield.distributed import worker_server

SCRIPT = """
import pathlib, sys
import voxfield
with pathlib.Path(sys.argv[3]).open("a") as seen:
    seen.write("once ")
done = voxfield.prerender(sys.argv[1], sys.argv[2], voxel_size=8, volume_dims=(1.0, 1.0, 1.0), workers=2, quiet=True)
print(done.samples)
"""


def test_a_script_without_a_guard_runs_once(tmp_path: Path):
    np.save(tmp_path / "points.npy", np.random.default_rng(0).random((4, 50, 3), dtype=np.float32))
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    words = [str(tmp_path / "points.npy"), str(tmp_path / "out"), str(tmp_path / "seen")]
    ran = subprocess.run(
        [sys.executable, str(script), *words], capture_output=True, text=True, check=False, timeout=300
    )
    assert (ran.returncode, ran.stdout.strip()) == (0, "4"), ran.stderr
    assert (tmp_path / "seen").read_text() == "once "


def test_the_server_loads_no_library_into_this_process():
    """A command begins it before anything heavy: it would come too late otherwise."""
    program = "import sys, voxfield.distributed.worker_server; print({'torch', 'numpy', 'numba'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == "set()"


def test_main_is_back_afterwards():
    main = sys.modules["__main__"]
    with worker_server.main_left_out():
        assert sys.modules["__main__"] is not main
    assert sys.modules["__main__"] is main
