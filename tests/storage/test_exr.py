import random
import struct
import sys

import numpy as np
import OpenEXR
import pytest

from voxfield.errors import FormatError, InputError, MissingExtraError
from voxfield.storage.exr import read_exr, read_exr_header, write_exr

RNG = np.random.default_rng(0)


def colours(channels: int = 3) -> np.ndarray:
    """(5, 7, C) with values from 0.001 to some thousand."""
    return (10 ** RNG.uniform(-3, 3.5, (5, 7, channels))).astype(np.float32)


def save(path, channels, kind=OpenEXR.scanlineimage, **header):
    """Write with the OpenEXR library, as other programs do."""
    if kind == OpenEXR.tiledimage:
        header["tiles"] = OpenEXR.TileDescription()
    OpenEXR.File({"compression": OpenEXR.ZIP_COMPRESSION, "type": kind, **header}, channels).write(str(path))
    return path


def with_windows(raw: bytes, *corners: int) -> bytes:
    """The file with another data and display window in its header."""
    changed = bytearray(raw)
    for key in (b"dataWindow\0box2i\0", b"displayWindow\0box2i\0"):
        at = raw.index(key) + len(key) + 4
        changed[at : at + 16] = struct.pack("<4i", *corners)
    return bytes(changed)


def test_floats_come_back_exactly(tmp_path):
    values = colours()
    picture, header = read_exr(save(tmp_path / "a.exr", {"RGB": values}))
    assert np.array_equal(picture, values)
    assert (header.size, header.alpha, header.half) == ((7, 5), False, False)


def test_halves_come_back_exactly(tmp_path):
    values = colours(4).astype(np.float16)
    picture, header = read_exr(save(tmp_path / "a.exr", {"RGBA": values}))
    assert np.array_equal(picture, values.astype(np.float32))
    assert (header.alpha, header.half) == (True, True)


@pytest.mark.parametrize(
    "compression", ["NO", "RLE", "ZIPS", "ZIP", "PIZ", "PXR24", "B44", "B44A", "DWAA", "DWAB"], ids=str.lower
)
def test_every_compression_is_read(tmp_path, compression):
    values = np.full((67, 9, 3), 2.5, dtype=np.float16)
    kind = getattr(OpenEXR, f"{compression}_COMPRESSION")
    picture, _ = read_exr(save(tmp_path / "a.exr", {"RGB": values}, compression=kind))
    np.testing.assert_allclose(picture, 2.5, rtol=0.02)


def test_tiles_and_decreasing_lines_are_read(tmp_path):
    values = np.repeat(colours(), 20, axis=0)
    tiled, _ = read_exr(save(tmp_path / "tiled.exr", {"RGB": values}, OpenEXR.tiledimage))
    upside, _ = read_exr(save(tmp_path / "upside.exr", {"RGB": values}, lineOrder=OpenEXR.DECREASING_Y))
    assert np.array_equal(tiled, values)
    assert np.array_equal(upside, values)


def test_luminance_becomes_grey(tmp_path):
    values = colours(1)[..., 0].copy()
    picture, _ = read_exr(save(tmp_path / "a.exr", {"Y": values}))
    assert np.array_equal(picture, np.repeat(values[..., None], 3, axis=2))


def test_other_channels_are_passed_over(tmp_path):
    values = colours()
    planes = {name: values[..., i].astype(np.float16) for i, name in enumerate("RGB")}
    picture, header = read_exr(save(tmp_path / "a.exr", {**planes, "Z": values[..., 0].copy()}))
    assert picture.shape == (5, 7, 3)
    assert header.half


def test_the_display_window_is_the_picture(tmp_path):
    values = colours()
    windows = {"dataWindow": ((2, 1), (8, 5)), "displayWindow": ((0, 0), (9, 3))}
    picture, header = read_exr(save(tmp_path / "a.exr", {"RGB": values}, **windows))
    assert header.size == (10, 4)
    assert np.array_equal(picture[1:, 2:9], values[:3])
    # Nothing is known outside the data window.
    assert np.isnan(picture[0]).all()
    assert np.isnan(picture[:, :2]).all()
    with_alpha, _ = read_exr(save(tmp_path / "b.exr", {"RGBA": colours(4)}, **windows))
    assert not with_alpha[0].any()


def test_what_is_written_the_library_reads(tmp_path):
    values = colours()
    planes = {name: values[..., i] for i, name in enumerate("RGB")} | {"Z": values[..., 0]}
    path = write_exr(tmp_path / "deep" / "a.exr", planes)
    with OpenEXR.File(str(path), separate_channels=True) as file:
        found = {name: channel.pixels for name, channel in file.channels().items()}
    assert {name: str(plane.dtype) for name, plane in found.items()} == {
        "R": "float16",
        "G": "float16",
        "B": "float16",
        "Z": "float32",
    }
    np.testing.assert_allclose(found["G"], values[..., 1], rtol=2**-11)
    assert np.array_equal(found["Z"], values[..., 0])
    exact = write_exr(tmp_path / "b.exr", planes, precision="float")
    assert np.array_equal(read_exr(exact)[0], values)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.exr"]


def test_values_beyond_half_are_clipped_not_infinite(tmp_path):
    plane = np.full((2, 2), 1e6, dtype=np.float32)
    picture, _ = read_exr(write_exr(tmp_path / "a.exr", dict.fromkeys("RGB", plane)))
    assert picture.max() == 65504


def test_channels_of_different_sizes_are_not_written(tmp_path):
    with pytest.raises(InputError, match="one size"):
        write_exr(tmp_path / "a.exr", {"R": np.zeros((2, 2)), "G": np.zeros((3, 2))})
    with pytest.raises(InputError, match="one size"):
        write_exr(tmp_path / "a.exr", {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("names", [("X", "Z"), ("R", "G"), ("beauty.R", "beauty.G", "beauty.B"), ("Y", "RY", "BY")])
def test_pictures_without_plain_colours_are_refused(tmp_path, names):
    path = save(tmp_path / "a.exr", {name: colours(1)[..., 0].copy() for name in names})
    with pytest.raises(FormatError, match=r"expected channels R, G, B .*or Y, got") as caught:
        read_exr_header(path)
    assert str(caught.value).startswith(str(path))


def test_whole_numbers_are_refused(tmp_path):
    path = save(tmp_path / "a.exr", {name: np.ones((4, 4), dtype=np.uint32) for name in "RGB"})
    with pytest.raises(FormatError, match="whole numbers"):
        read_exr_header(path)


def test_deep_and_multipart_files_are_refused(tmp_path):
    raw = bytearray(save(tmp_path / "a.exr", {"RGB": colours()}).read_bytes())
    raw[5] |= 0x08
    (tmp_path / "deep.exr").write_bytes(raw)
    with pytest.raises(FormatError, match="deep samples"):
        read_exr_header(tmp_path / "deep.exr")
    parts = [OpenEXR.Part({}, {"RGB": colours()}, name) for name in ("left", "right")]
    OpenEXR.File(parts).write(str(tmp_path / "parts.exr"))
    with pytest.raises(FormatError, match="several parts"):
        read_exr_header(tmp_path / "parts.exr")


@pytest.mark.parametrize("corners", [(0, 0, 39999, 24999), (0, 0, 2**30, 0), (-(2**31), 0, 2**31 - 1, 0)])
def test_absurd_sizes_are_refused_before_anything_is_allocated(tmp_path, corners):
    raw = save(tmp_path / "a.exr", {"RGB": colours()}).read_bytes()
    (tmp_path / "bomb.exr").write_bytes(with_windows(raw, *corners))
    with pytest.raises(FormatError, match="more than 89 megapixels"):
        read_exr_header(tmp_path / "bomb.exr")


def test_empty_windows_are_damage(tmp_path):
    raw = save(tmp_path / "a.exr", {"RGB": colours()}).read_bytes()
    (tmp_path / "b.exr").write_bytes(with_windows(raw, 0, 0, -5, 3))
    with pytest.raises(FormatError, match="damaged"):
        read_exr_header(tmp_path / "b.exr")


@pytest.mark.parametrize("content", [b"", b"\x76\x2f\x31\x01", b"hello, world", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_other_files_are_not_taken_for_exr(tmp_path, content):
    (tmp_path / "a.exr").write_bytes(content)
    with pytest.raises(FormatError, match="not an OpenEXR file"):
        read_exr_header(tmp_path / "a.exr")


def test_files_cut_short_are_told_by_their_header(tmp_path):
    values = RNG.random((200, 30, 3)).astype(np.float32)
    raw = save(tmp_path / "a.exr", {"RGB": values}).read_bytes()
    for length in (12, 100, 340, 500, len(raw) // 2):
        (tmp_path / "cut.exr").write_bytes(raw[:length])
        with pytest.raises(FormatError, match="cut short or damaged"):
            read_exr_header(tmp_path / "cut.exr")
    (tmp_path / "cut.exr").write_bytes(raw[:-10])
    with pytest.raises(FormatError, match="cut short or damaged"):
        read_exr(tmp_path / "cut.exr")


@pytest.mark.parametrize("kind", [OpenEXR.scanlineimage, OpenEXR.tiledimage], ids=["lines", "tiles"])
def test_damaged_files_end_in_one_kind_of_error(tmp_path, kind):
    raw = save(tmp_path / "a.exr", {"RGB": colours()}, kind).read_bytes()
    dice, path = random.Random(1), tmp_path / "b.exr"
    said: list[str] = []
    for _ in range(150):
        content = bytearray(raw)
        for _ in range(dice.choice((1, 4, 12))):
            content[dice.randrange(len(content))] = dice.randrange(256)
        path.write_bytes(content)
        try:
            picture, header = read_exr(path)
        except FormatError as error:
            said.append(str(error))
        else:
            assert picture.shape[:2] == header.size[::-1]
    assert len(said) > 30
    assert all(message.startswith(str(path)) and "\n" not in message for message in said)


def test_the_missing_extra_is_named(tmp_path, monkeypatch):
    path = save(tmp_path / "a.exr", {"RGB": colours()})
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(MissingExtraError, match=r"voxfield\[images\]"):
        read_exr_header(path)
