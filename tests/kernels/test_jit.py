"""The cache of machine code: fresh when any of the kernels' sources changes, and no process takes another's."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import voxfield
from voxfield.kernels.jit import CodeFiles

KEY = (("Array(float32, 1, 'C', False, aligned=True)",), ("x86_64", "znver3"), ("a", "b"))


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    files = CodeFiles(tmp_path, "numba_cpu._forward-1.py311", "0" * 16)
    assert files.load(KEY) is None
    files.save(KEY, {"code": b"\x90"})
    assert files.load(KEY) == {"code": b"\x90"}
    assert files.load((*KEY, "other")) is None
    files.flush()
    assert files.load(KEY) is None


def test_specialisations_have_files_of_their_own(tmp_path: Path) -> None:
    """Two processes that know nothing of each other's: Numba's own would both write number 1."""
    first, second = (CodeFiles(tmp_path, "f", "0" * 16) for _ in range(2))
    keys = [(*KEY, number) for number in range(20)]
    for number, key in enumerate(keys):
        (first if number % 2 else second).save(key, number)
    assert [CodeFiles(tmp_path, "f", "0" * 16).load(key) for key in keys] == list(range(20))


def test_other_sources_are_other_code_and_the_old_is_removed(tmp_path: Path) -> None:
    old = CodeFiles(tmp_path, "f", "0" * 16)
    old.save(KEY, "old")
    (tmp_path / "f.nbi").write_bytes(b"Numba's")
    (tmp_path / "g.1.nbc").write_bytes(b"another function's")
    new = CodeFiles(tmp_path, "f", "1" * 16)
    assert new.load(KEY) is None
    new.save(KEY, "new")
    assert (new.load(KEY), old.load(KEY)) == ("new", None)
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("f.1")) == ["g.1.nbc"]


def test_what_killed_processes_left_is_removed_and_not_what_others_write(tmp_path: Path) -> None:
    """Three partial files under the names that `save` gives: of these sources, of older ones, of another function."""
    files = CodeFiles(tmp_path, "f", "1" * 16)
    left = {f"f.{'1' * 16}.0.nbc.ab12", f"f.{'0' * 16}.0.nbc.cd34", f"g.{'1' * 16}.0.nbc.ef56"}
    for name in left:
        (tmp_path / name).write_bytes(b"half of it")

    def saved() -> set[str]:
        files.save(KEY, "code")
        assert files.load(KEY) == "code"
        return {path.name for path in tmp_path.iterdir()} - {files._path(KEY).name}

    assert saved() == left
    for name in left:
        os.utime(tmp_path / name, (time.time() - 7200,) * 2)
    assert saved() == {f"g.{'1' * 16}.0.nbc.ef56"}


def test_a_killed_process_leaves_its_file_under_a_name_that_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    files = CodeFiles(tmp_path, "f", "0" * 16)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            files.save(KEY, "code")
    (left,) = tmp_path.iterdir()
    os.utime(left, (time.time() - 7200,) * 2)
    files.save(KEY, "code")
    assert list(tmp_path.iterdir()) == [files._path(KEY)]


@pytest.mark.parametrize("spoil", [lambda code: code[:40], lambda _: b"", lambda _: b"\x80\x05not a pickle."])
def test_spoiled_code_is_compiled_again(tmp_path: Path, spoil) -> None:
    files = CodeFiles(tmp_path, "f", "0" * 16)
    files.save(KEY, "code")
    (path,) = tmp_path.iterdir()
    path.write_bytes(spoil(path.read_bytes()))
    assert files.load(KEY) is None
    files.save(KEY, "code")
    assert files.load(KEY) == "code"


def test_a_folder_that_takes_nothing_costs_only_time(tmp_path: Path) -> None:
    files = CodeFiles(tmp_path / "missing", "f", "0" * 16)
    files.save(KEY, "code")
    assert files.load(KEY) is None


SUM = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from voxfield.kernels.fused_mlp import fused_mlp
weights = [torch.eye(8), torch.ones(1, 8)]
print(float(fused_mlp(torch.full((40, 8), 2.0), weights, implementation="numba").sum()))
"""


def test_a_constant_of_another_file_is_followed(tmp_path: Path) -> None:
    """As an upgrade does it: the kernel's own file stays as it was."""
    home = Path(voxfield.__file__).parent
    shutil.copytree(home, tmp_path / "voxfield", ignore=shutil.ignore_patterns("__pycache__"))

    def files_after_a_run() -> set[str]:
        run = subprocess.run(
            [sys.executable, "-c", SUM, str(tmp_path)], capture_output=True, text=True, timeout=110, check=False
        )
        assert run.stdout == "640.0\n", run.stderr
        return {path.name for path in (tmp_path / "voxfield" / "kernels" / "fused_mlp" / "__pycache__").glob("*.nbc")}

    before = files_after_a_run()
    assert before
    assert files_after_a_run() == before
    source = tmp_path / "voxfield" / "kernels" / "simd.py"
    text = source.read_text()
    source.write_text(text.replace("TILE_ROWS = 8 if LANES == 16 else 4", "TILE_ROWS = 2"))
    assert source.read_text() != text
    assert not files_after_a_run() & before
