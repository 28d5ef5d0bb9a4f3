"""Runs whose capture is no longer where training found it."""

import shutil
from pathlib import Path

import pytest

import voxfield
from voxfield.cli.__main__ import main
from voxfield.data.synthetic import posed_images, write_nerfstudio
from voxfield.errors import InputError, MissingFileError


def test_a_capture_that_moved_is_named(tiny_capture: Path, tiny: tuple[str, ...], tmp_path: Path, capsys) -> None:
    there, now, output = tmp_path / "there", tmp_path / "now", tmp_path / "run"
    shutil.copytree(tiny_capture, there)
    run = voxfield.train("grid-ngp", there, output=output, steps=2, device="cpu", quiet=True, overrides=tiny)
    write_nerfstudio(tmp_path / "other", posed_images(count=8, resolution=24))
    with pytest.raises(InputError, match=r"other: its world is another than that of .*run"):
        run.evaluate(data=tmp_path / "other", quiet=True)
    there.rename(now)
    measure = ["eval", str(output), "--max-images", "1", "--quiet"]
    assert main(measure) == 2
    said = capsys.readouterr().err
    assert "the capture of this run is not there" in said
    assert "--data" in said
    assert main([*measure, "--data", str(now)]) == 0
    assert "PSNR" in capsys.readouterr().out
    with pytest.raises(MissingFileError, match="not there"):
        voxfield.open(output).evaluate(data=tmp_path / "nowhere", quiet=True)
