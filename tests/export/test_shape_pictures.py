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
