import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import voxfield
from voxfield.cli.__main__ import main
from voxfield.errors import InputError


def test_a_contact_sheet_has_a_picture_of_each_object(shape_dataset, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert main(["dataset", "view", str(shape_dataset), "--output", str(sheet), "--size", "48", "--columns", "3"]) == 0
    assert str(sheet) in capsys.readouterr().out
    with Image.open(sheet) as picture:
        assert picture.size == (3 * 48, 2 * 48)
        pixels = np.asarray(picture)
    tiles = [pixels[top : top + 48, left : left + 48] for top in (0, 48) for left in (0, 48, 96)]
    assert [bool((tile[16:] != 255).any()) for tile in tiles] == [True] * 4 + [False] * 2, "four objects, two gaps"


def test_objects_are_chosen_evenly_or_by_name(shape_dataset, tmp_path):
    for options in ({"count": 2}, {"objects": ["0000", "0003"]}):
        with Image.open(voxfield.view_shapes(shape_dataset, tmp_path / "s.png", size=32, **options)) as picture:
            assert picture.size == (64, 32)
    with pytest.raises(InputError, match="has no object '0007'"):
        voxfield.view_shapes(shape_dataset, tmp_path / "s.png", objects=["0007"])
    with pytest.raises(InputError, match="size"):
        voxfield.view_shapes(shape_dataset, tmp_path / "s.png", size=8)


def test_objects_turn(shape_dataset, tmp_path, capsys):
    folder, video = tmp_path / "turning", tmp_path / "turning.mp4"
    view = ["dataset", "view", str(shape_dataset), "--size", "24", "--frames", "4", "--count", "2", "--quiet"]
    assert main([*view, "--turntable", str(folder)]) == 0
    assert f"Wrote  {folder}" in capsys.readouterr().out
    files = sorted(folder.iterdir())
    assert [file.suffix for file in files] == [".gif"] * 2
    with Image.open(files[0]) as picture:
        assert (picture.size, picture.n_frames) == ((24, 24), 4)
        pictures = []
        for number in range(4):
            picture.seek(number)
            pictures.append(np.asarray(picture.convert("RGB"), np.int16))
    assert all(np.abs(one - two).max() > 40 for one, two in itertools.pairwise(pictures)), "it turns"
    with pytest.raises(InputError, match="frames: expected a value at least 2"):
        voxfield.view_shapes(shape_dataset, folder, turntable=True, frames=1)
    assert main([*view, "--turntable", str(tmp_path / "turning.avi")]) == 2
    assert main([*view, "--output", str(tmp_path / "sheet.jpg")]) == 2
    said = capsys.readouterr().err
    assert "turning.avi: expected a file that ends in .mp4, or a folder" in said
    assert "sheet.jpg: expected a file that ends in .png" in said
    av = pytest.importorskip("av", reason="videos need PyAV")
    assert main([*view, "--turntable", str(video)]) == 0
    with av.open(str(video)) as container:
        seen = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [frame.shape for frame in seen] == [(24, 48, 3)] * 4


def test_the_browser_is_the_viewer(monkeypatch):
    from voxfield.cli import view

    asked = []
    monkeypatch.setattr(view, "command", lambda path, **options: asked.append((path, options)) or 0)
    assert main(["dataset", "view", "somewhere", "--browser"]) == 0
    assert asked == [(Path("somewhere"), {"quiet": False})]
