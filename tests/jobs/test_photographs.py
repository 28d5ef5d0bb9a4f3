from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from voxfield.data.decode import read_header, read_image
from voxfield.jobs.photographs import PlacedPicture, find_photographs, place_photographs, write_reduced

ORIENTATION, EXIF_IFD, FOCAL_IN_35MM = 0x0112, 0x8769, 0xA405


def picture(size: tuple[int, int] = (40, 20)) -> Image.Image:
    """A white stripe at the top of the picture as it should be seen, dark below."""
    values = np.full((size[1], size[0], 3), 30, dtype=np.uint8)
    values[: size[1] // 4] = 250
    return Image.fromarray(values)


def place(folder: Path, images: Path) -> tuple[list[PlacedPicture], list[str]]:
    results = list(place_photographs(find_photographs(folder), folder, images))
    return [one for one, _ in results if one], [fault.path for _, fault in results if fault]


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_photographs(folder)]


def test_photographs_are_found_in_counting_order(tmp_path: Path) -> None:
    for name in ("10.jpg", "2.JPG", "1.png", "b/3.jpeg", "b/20.webp", ".hidden.jpg", ".cache/4.jpg", "5.txt", "6.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    assert names(tmp_path) == ["1.png", "2.JPG", "10.jpg", "b/3.jpeg", "b/20.webp"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_and_focal_length_kept(tmp_path: Path, orientation: int) -> None:
    # What a viewer does to the stored pixels to show them, undone: the stored pixels.
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = picture().transpose(undo[orientation]) if orientation in undo else picture()
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif.get_ifd(EXIF_IFD)[FOCAL_IN_35MM] = 28
    (tmp_path / "in").mkdir()
    stored.save(tmp_path / "in" / "a.jpg", quality=95, exif=exif)
    placed, _ = place(tmp_path / "in", tmp_path / "out")
    with Image.open(tmp_path / "out" / placed[0].name) as seen:
        assert seen.size == (40, 20)
        assert seen.getexif().get(ORIENTATION, 1) == 1
        assert seen.getexif().get_ifd(EXIF_IFD)[FOCAL_IN_35MM] == 28
        difference = np.asarray(seen).astype(int) - np.asarray(picture())
    assert np.abs(difference).mean() < 6
    copied = (tmp_path / "out" / "a.jpg").read_bytes() == (tmp_path / "in" / "a.jpg").read_bytes()
    assert copied == (orientation == 1)


def test_other_kinds_become_png(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    picture().save(folder / "a.tif")
    picture().save(folder / "b.bmp")
    picture().save(folder / "c.webp", lossless=True)
    picture().convert("P").save(folder / "d.png")
    Image.fromarray(np.full((20, 40), 40_000, dtype=np.uint16)).save(folder / "e.png")
    picture().convert("CMYK").save(folder / "f.jpg")
    picture().save(folder / "g.jpg", format="PNG")
    picture().convert("RGBA").save(folder / "h.png")
    placed, faults = place(folder, tmp_path / "out")
    assert not faults
    assert [one.name for one in placed] == ["a.png", "b.png", "c.png", "d.png", "e.png", "f.jpg", "g.png", "h.png"]
    for one in placed:
        with Image.open(tmp_path / "out" / one.name) as seen:
            assert seen.size == (40, 20)
            assert seen.mode in {"RGB", "RGBA"}
    grey = read_image(tmp_path / "out" / "e.png", channels=3, size=(40, 20), full_size=(40, 20))
    assert grey.float().mean() == pytest.approx(40_000 / 257, abs=1)
    assert (tmp_path / "out" / "h.png").read_bytes() == (folder / "h.png").read_bytes()


def test_names_fit_colmaps_lists_and_stay_apart(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name in ("a b.jpg", "a_b.jpg", "A_B.jpg", "sub/ä (1).jpg", "x.tif", "x.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture().save(folder / name)
    placed, _ = place(folder, tmp_path / "out")
    found = {one.source: one.name for one in placed}
    assert found["sub/ä (1).jpg"] == "sub/ä__1_.jpg"
    assert sorted(name.lower() for name in found.values()) == sorted({name.lower() for name in found.values()})
    assert all((tmp_path / "out" / name).is_file() and " " not in name for name in found.values())


def test_names_that_are_no_text_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    try:
        picture().save(tmp_path / "in" / name)
    except OSError:
        pytest.skip("this file system holds only text as names")
    placed, _ = place(tmp_path / "in", tmp_path / "out")
    assert (placed[0].name, placed[0].source) == ("caf_.jpg", "caf?.jpg")


def test_broken_pictures_are_named_and_the_rest_is_placed(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(3):
        picture((200, 100)).save(folder / f"{index}.jpg")
    (folder / "1.jpg").write_bytes((folder / "1.jpg").read_bytes()[:700])
    (folder / "text.png").write_text("hello")
    (folder / "empty.jpg").write_bytes(b"")
    placed, faults = place(folder, tmp_path / "out")
    assert [one.name for one in placed] == ["0.jpg", "2.jpg"]
    assert faults == ["1.jpg", "empty.jpg", "text.png"]


def test_reduced_copies_lie_where_readers_look(tmp_path: Path) -> None:
    (tmp_path / "images" / "sub").mkdir(parents=True)
    picture((41, 21)).save(tmp_path / "images" / "sub" / "a.jpg")
    write_reduced(tmp_path / "images", "sub/a.jpg", 2)
    assert read_header(tmp_path / "images_2" / "sub" / "a.jpg").size == (21, 11)
    assert read_header(tmp_path / "images_4" / "sub" / "a.jpg").size == (11, 6)
    before = (tmp_path / "images_2" / "sub" / "a.jpg").stat().st_mtime_ns
    write_reduced(tmp_path / "images", "sub/a.jpg", 2)
    assert (tmp_path / "images_2" / "sub" / "a.jpg").stat().st_mtime_ns == before
