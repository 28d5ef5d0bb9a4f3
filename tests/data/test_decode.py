import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from voxfield.data.decode import read_header, read_image, read_mask
from voxfield.errors import FormatError

SIZE = (6, 4)


def gradient(channels: int) -> np.ndarray:
    values = np.arange(6 * 4 * channels, dtype=np.uint8).reshape(4, 6, channels) * 2 + 5
    return values if channels > 1 else values[..., 0]


def save(path, array, mode=None, **options):
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode)).save(path, **options)
    return path


def read(path, channels=3, size=SIZE, full_size=None):
    return read_image(path, channels=channels, size=size, full_size=full_size or size)


def test_rgb_and_rgba_pictures_come_as_they_are(tmp_path):
    rgb, rgba = save(tmp_path / "rgb.png", gradient(3)), save(tmp_path / "rgba.png", gradient(4))
    assert read(rgb).numpy().tolist() == gradient(3).tolist()
    assert read(rgba, 4).numpy().tolist() == gradient(4).tolist()
    assert not read_header(rgb).alpha
    assert read_header(rgba) == (SIZE, True, torch.uint8)


def test_alpha_is_added_or_dropped(tmp_path):
    rgb, rgba = save(tmp_path / "rgb.png", gradient(3)), save(tmp_path / "rgba.png", gradient(4))
    assert read(rgb, 4)[..., 3].unique().tolist() == [255]
    assert read(rgba, 3).numpy().tolist() == gradient(4)[..., :3].tolist()


def test_grey_pictures_become_rgb(tmp_path):
    path = save(tmp_path / "grey.png", gradient(1))
    assert read(path).numpy().tolist() == np.repeat(gradient(1)[..., None], 3, axis=2).tolist()


def test_grey_with_alpha_becomes_rgba(tmp_path):
    path = tmp_path / "la.png"
    Image.fromarray(gradient(4)).convert("LA").save(path)
    assert read_header(path).alpha
    assert read(path, 4)[..., 3].tolist() == gradient(4)[..., 3].tolist()


def test_palettes_with_transparency_become_rgba(tmp_path):
    path = tmp_path / "palette.png"
    Image.fromarray(gradient(3)).convert("P").save(path, transparency=0)
    assert read_header(path).alpha
    assert read(path, 4).shape == (4, 6, 4)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    path = save(tmp_path / "deep.png", values)
    assert read(path, size=(4, 1))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_floats_are_taken_as_shares(tmp_path):
    path = tmp_path / "float.tiff"
    Image.fromarray(np.array([[0.0, 0.5, 1.0, np.nan]], dtype=np.float32)).save(path)
    assert read(path, size=(4, 1))[0, :, 1].tolist() == [0, 128, 255, 0]


def test_cmyk_becomes_rgb(tmp_path):
    path = tmp_path / "print.jpg"
    Image.fromarray(np.full((4, 6, 3), (200, 100, 50), dtype=np.uint8)).convert("CMYK").save(path, quality=100)
    assert read(path)[1, 1].tolist() == pytest.approx([200, 100, 50], abs=6)


def test_exif_orientation_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    Image.fromarray(gradient(3)).save(path, exif=exif)
    assert read_header(path).size == SIZE
    assert read(path).shape == (4, 6, 3)


def test_reduction_averages_areas(tmp_path):
    path = save(tmp_path / "big.png", gradient(3))
    came = read(path, size=(3, 2), full_size=SIZE).float()
    mean = torch.from_numpy(gradient(3)).float().view(2, 2, 3, 2, 3).mean((1, 3))
    torch.testing.assert_close(came, mean, atol=0.51, rtol=0)


def test_reduction_weights_colours_by_alpha(tmp_path):
    array = np.zeros((2, 2, 4), dtype=np.uint8)
    array[0, 0] = (200, 100, 40, 255)
    array[1, 1] = (0, 255, 0, 0)
    came = read(save(tmp_path / "edge.png", array), 4, size=(1, 1), full_size=(2, 2))
    assert came[0, 0].tolist() == pytest.approx([200, 100, 40, 64], abs=3)


def test_reduction_by_an_uneven_factor_keeps_the_mean(tmp_path):
    path = save(tmp_path / "odd.png", np.full((7, 9, 3), 77, dtype=np.uint8))
    assert read(path, size=(4, 3), full_size=(9, 7)).unique().tolist() == [77]


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "I;16"])
def test_masks_keep_what_is_not_black(tmp_path, mode):
    array = np.zeros((4, 6), dtype=np.uint16 if mode == "I;16" else np.uint8)
    array[1, 2:5] = 65535 if mode == "I;16" else 255
    path = save(tmp_path / "mask.png", array, None if mode == "I;16" else mode)
    assert read_mask(path, size=SIZE, full_size=SIZE).tolist() == (array > 0).tolist()


def test_a_reduced_mask_keeps_only_whole_pixels(tmp_path):
    array = np.zeros((4, 4), dtype=np.uint8)
    array[:2, :3] = 255
    path = save(tmp_path / "mask.png", array)
    assert read_mask(path, size=(2, 2), full_size=(4, 4)).tolist() == [[True, False], [False, False]]


def broken_files(folder):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    png, jpg = save(folder / "whole.png", noise), save(folder / "whole.jpg", noise)
    (folder / "cut.png").write_bytes(png.read_bytes()[:5000])
    (folder / "cut.jpg").write_bytes(jpg.read_bytes()[:1500])
    (folder / "text.png").write_text("not a picture")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "header.png").write_bytes(png.read_bytes()[:20])
    (folder / "folder.png").mkdir()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cut.png", "cut short or damaged"),
        ("cut.jpg", "cut short or damaged"),
        ("text.png", "not a picture"),
        ("empty.jpg", "not a picture"),
        ("header.png", "damaged|not a picture"),
        ("folder.png", "damaged"),
        ("absent.png", "no such file"),
    ],
)
def test_broken_files_are_told_by_their_header(tmp_path, name, words):
    broken_files(tmp_path)
    with pytest.raises(FormatError, match=words) as caught:
        read_header(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert str(caught.value).count("\n") <= 1


def test_data_after_the_end_of_a_picture_does_no_harm(tmp_path):
    path = save(tmp_path / "tail.png", gradient(3))
    path.write_bytes(path.read_bytes() + b"appended")
    assert read_header(path).size == SIZE


def test_lengths_that_a_file_only_claims_take_no_memory(tmp_path):
    path = save(tmp_path / "claims.png", gradient(3))
    raw = bytearray(path.read_bytes())
    length = raw.index(b"IDAT") - 4
    raw[length] = 0x7F  # two gigabytes, of a file of some hundred bytes
    path.write_bytes(raw)
    tracemalloc.start()
    try:
        assert torch.equal(read_image(path, channels=3, size=SIZE, full_size=SIZE), torch.from_numpy(gradient(3)))
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("side", [12_000, 60_000])
def test_pictures_of_absurd_size_are_refused(tmp_path, side):
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    with pytest.raises(FormatError, match="more than 89 megapixels"):
        read_header(path)


def test_a_picture_that_changed_its_size_is_named(tmp_path):
    path = save(tmp_path / "other.png", gradient(3))
    with pytest.raises(FormatError, match=r"is 6x4 pixels, expected 8x8"):
        read(path, size=(8, 8))
