"""Captures of EXR pictures, from the file to the ray."""

import json
from dataclasses import replace

import numpy as np
import OpenEXR
import pytest
import torch
from PIL import Image

from voxfield.colour import ToneCurve
from voxfield.data.capture import CaptureOptions
from voxfield.data.capture_reading import read_capture
from voxfield.data.decode import read_header, read_linear
from voxfield.data.image_store import FaultyPixels, ImageStore, Picture
from voxfield.data.ray_batches import RaySampler
from voxfield.data.synthetic import SyntheticScene, posed_images, write_blender, write_nerfstudio
from voxfield.errors import FormatError, InputError
from voxfield.export.nerfstudio import convert_capture

SIZE = (6, 4)
TONE = ToneCurve(exposure=1.0)


def save(path, array):
    """(H, W, C) as an EXR, by the OpenEXR library."""
    name = {3: "RGB", 4: "RGBA"}[array.shape[-1]]
    OpenEXR.File({"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}, {name: array}).write(
        str(path)
    )
    return path


def read(path, channels=3, size=SIZE, full_size=SIZE, dtype=torch.float32, gain=1.0):
    return read_linear(path, channels=channels, size=size, full_size=full_size, dtype=dtype, gain=gain)


def values(channels=3, kind=np.float32):
    return (10 ** np.random.default_rng(0).uniform(-2, 3, (4, 6, channels))).astype(kind)


@pytest.fixture(scope="module")
def scene():
    """Three pictures of a scene over four decades of light, 20 pixels wide, in half floats."""
    return posed_images(SyntheticScene.bright_example(), count=3, resolution=20, tone=TONE)


@pytest.fixture
def folder(tmp_path, scene):
    write_nerfstudio(tmp_path, scene, train_filenames=[f"images/{index:04d}.exr" for index in range(3)])
    return tmp_path


def everything(path, **options):
    return read_capture(path, split="train", options=CaptureOptions(**options))


def spoil(folder, name, change):
    """Rewrite a picture through its planes."""
    with OpenEXR.File(str(folder / "images" / name), separate_channels=True) as file:
        planes = {channel: stored.pixels.copy() for channel, stored in file.channels().items()}
    for plane in planes.values():
        change(plane)
    OpenEXR.File({}, planes).write(str(folder / "images" / name))


def test_headers_say_what_values_are_kept(tmp_path):
    assert read_header(save(tmp_path / "a.exr", values())) == (SIZE, False, torch.float32)
    assert read_header(save(tmp_path / "b.EXR", values(4, np.float16))) == (SIZE, True, torch.float16)


def test_values_above_one_come_as_they_are(tmp_path):
    decoded = read(save(tmp_path / "a.exr", values()))
    assert np.array_equal(decoded.image.numpy(), values())
    assert bool(decoded.kept.all())
    assert (decoded.broken, decoded.negative) == (0, 0)


def test_premultiplied_colours_become_straight(tmp_path):
    array = values(4)
    array[..., 3] = 0.25
    array[0, 0] = (8.0, 4.0, 2.0, 0.0)
    decoded = read(save(tmp_path / "a.exr", array), channels=4)
    np.testing.assert_allclose(decoded.image[1].numpy()[:, :3], 4 * array[1, :, :3], rtol=1e-6)
    # Light without cover has no place in straight alpha.
    assert decoded.image[0, 0].tolist() == [0, 0, 0, 0]
    without = read(save(tmp_path / "b.exr", values()), channels=4)
    assert without.image[..., 3].unique().tolist() == [1.0]


def test_broken_pixels_are_masked_and_counted(tmp_path):
    array = values()
    array[0, 0, 1], array[1, 2, 0], array[3, 5, 2] = np.nan, np.inf, -np.inf
    array[2, 2] = -0.5
    decoded = read(save(tmp_path / "a.exr", array))
    assert (decoded.broken, decoded.negative) == (3, 1)
    assert (~decoded.kept).nonzero().tolist() == [[0, 0], [1, 2], [3, 5]]
    assert decoded.image[0, 0].tolist() == [0, 0, 0]
    assert decoded.image[2, 2].tolist() == [0, 0, 0]
    assert bool(decoded.image.isfinite().all())


def test_pictures_that_are_mostly_broken_are_refused(tmp_path):
    array = values()
    array[:3] = np.nan
    with pytest.raises(FormatError, match=r"a\.exr: 18 of 24 pixels are NaN"):
        read(save(tmp_path / "a.exr", array))


def test_reduction_averages_light_and_spreads_what_is_broken(tmp_path):
    array = np.full((4, 6, 3), 2.0, dtype=np.float32)
    array[0, 0], array[0, 2] = 10.0, np.nan
    decoded = read(save(tmp_path / "a.exr", array), size=(3, 2))
    assert decoded.image[0, 0].tolist() == [4.0, 4.0, 4.0]
    assert decoded.image[1].unique().tolist() == [2.0]
    assert (~decoded.kept).nonzero().tolist() == [[0, 1]]


def test_reduction_weighs_colours_by_alpha(tmp_path):
    array = np.zeros((4, 6, 4), dtype=np.float32)
    array[0, 0] = (5.0, 5.0, 5.0, 1.0)
    decoded = read(save(tmp_path / "a.exr", array), channels=4, size=(3, 2))
    assert decoded.image[0, 0].tolist() == [5.0, 5.0, 5.0, 0.25]


def test_what_half_cannot_hold_becomes_its_largest_value(tmp_path):
    decoded = read(save(tmp_path / "a.exr", np.full((4, 6, 3), 1e6, np.float32)), dtype=torch.float16, gain=0.5)
    assert decoded.image.unique().tolist() == [65504.0]


def test_pictures_of_another_size_are_named(tmp_path):
    with pytest.raises(FormatError, match="is 6x4 pixels, expected 7x4"):
        read(save(tmp_path / "a.exr", values()), size=(7, 4), full_size=(7, 4))


def test_the_cache_bounds_floats_by_their_bytes(tmp_path):
    paths = [save(tmp_path / f"{index}.exr", values(3, np.float16)) for index in range(3)]
    pictures = [Picture(name=p.name, path=p, mask_path=None, size=SIZE, full_size=SIZE) for p in paths]
    bytes_each = 24 * (3 * 2 + 1)
    store = ImageStore(pictures, channels=3, cache_bytes=2 * bytes_each, dtype=torch.float16)
    assert store.total_bytes == 3 * bytes_each
    for index in (0, 1, 2):
        assert store.read(index).dtype == torch.float16
    assert (store._cached_bytes, list(store._cache)) == (2 * bytes_each, [1, 2])


def test_stores_keep_no_other_dtypes():
    with pytest.raises(InputError, match="dtype"):
        ImageStore([], channels=3, cache_bytes=1, dtype=torch.int32)
    with pytest.raises(InputError, match="dtype"):
        ImageStore.from_tensors([torch.zeros(2, 2, 3, dtype=torch.uint8)], dtype=torch.float16)


def test_a_capture_needs_a_tone_curve_exactly_if_it_is_linear(scene):
    with pytest.raises(InputError, match="tone"):
        replace(scene, tone=None)
    ordinary = posed_images(count=1, resolution=8)
    with pytest.raises(InputError, match="tone"):
        replace(ordinary, tone=TONE)


def test_what_is_written_is_read_back(folder, scene):
    capture = everything(folder)
    assert capture.images.dtype == torch.float16
    assert capture.has_alpha
    for index in range(3):
        came, truth = capture.images.read(index).float(), scene.images.read(index).float()
        solid = truth[..., 3] > 0.01
        torch.testing.assert_close(came[..., 3], truth[..., 3], atol=1e-3, rtol=0)
        torch.testing.assert_close(came[solid], truth[solid], atol=1e-3, rtol=5e-3)


def test_blender_captures_find_exr_without_an_ending(tmp_path, scene):
    write_blender(tmp_path, [scene])
    assert read_capture(tmp_path).images.linear


def test_the_automatic_exposure_follows_the_light(folder, scene):
    before = everything(folder).tone
    pictures = [scene.images.read(index) for index in range(3)]
    light = [picture[picture[..., 3] > 0][:, :3].double() for picture in pictures]
    luminance = torch.cat(light) @ torch.tensor([0.2126, 0.7152, 0.0722], dtype=torch.float64)
    assert before.exposure == pytest.approx(0.18 / float(luminance.log().mean().exp()), rel=0.02)


def test_the_exposure_may_be_given(folder):
    assert everything(folder, exposure=0.25, tone_mu=500.0).tone == ToneCurve(exposure=0.25, mu=500.0)
    for wrong in (0.0, "bright"):
        with pytest.raises(InputError, match="exposure"):
            CaptureOptions(exposure=wrong)
    with pytest.raises(InputError, match="tone_mu"):
        CaptureOptions(tone_mu=-1.0)


def test_an_exposure_does_not_fit_srgb_pictures(tmp_path):
    write_nerfstudio(tmp_path, posed_images(count=2, resolution=8))
    with pytest.raises(FormatError, match=r"capture\.exposure is for linear pictures"):
        everything(tmp_path, exposure=2.0)


def test_linear_and_srgb_pictures_do_not_mix(folder):
    listed = json.loads((folder / "transforms.json").read_text())
    Image.new("RGB", (20, 20)).save(folder / "images/0001.png")
    listed["frames"][1]["file_path"] = listed["train_filenames"][1] = "images/0001.png"
    (folder / "transforms.json").write_text(json.dumps(listed))
    with pytest.raises(FormatError, match=r"linear pictures \(images/0000\.exr\) and sRGB ones"):
        everything(folder)


def test_brackets_are_brought_to_one_exposure(folder):
    listed = json.loads((folder / "transforms.json").read_text())
    before = everything(folder).images.read(1).float()
    listed["frames"][1]["exposure_stops"] = 2
    (folder / "transforms.json").write_text(json.dumps(listed))
    capture = everything(folder)
    torch.testing.assert_close(capture.images.read(1)[..., :3].float(), before[..., :3] / 4, rtol=1e-3, atol=1e-6)
    assert torch.equal(capture.images.read(1)[..., 3].float(), before[..., 3])
    converted = convert_capture(folder, folder / "converted").file
    frames = json.loads(converted.read_text())["frames"]
    assert [frame.get("exposure_stops") for frame in frames] == [None, 2.0, None]
    listed["frames"][1]["exposure_stops"] = 1000
    (folder / "transforms.json").write_text(json.dumps(listed))
    with pytest.raises(FormatError, match="exposure_stops"):
        everything(folder)


def test_rays_bring_exposed_light(folder):
    capture = everything(folder, exposure=0.25)
    with RaySampler(capture, 0) as sampler:
        batch = sampler.sample(500, 0)
    columns, rows = batch.pixels.long().unbind(-1)
    truth = torch.stack(
        [capture.images.read(int(i))[y, x] for i, x, y in zip(batch.rays.camera_index, columns, rows, strict=True)]
    )
    assert torch.equal(batch.rgba[:, :3], truth[:, :3].float() * 0.25)
    assert torch.equal(batch.rgba[:, 3], truth[:, 3].float())
    assert float(batch.rgba[:, :3].max()) > 2


def test_broken_pixels_are_never_drawn(folder):
    def change(plane):
        plane[:, :10] = np.nan

    spoil(folder, "0001.exr", change)
    capture = everything(folder)
    with RaySampler(capture, 0) as sampler:
        batch = sampler.sample(2000, 0)
    chosen = batch.rays.camera_index == 1
    assert bool(chosen.any())
    assert float(batch.pixels[chosen, 0].min()) > 10
    assert bool(batch.rgba.isfinite().all())
    assert capture.images.faulty_pixels == (FaultyPixels(name="images/0001.exr", broken=200, negative=0),)


def test_large_linear_captures_are_drawn_from_a_sliding_part(folder):
    capture = everything(folder, cache_bytes=2 * 400 * 9)
    assert not capture.images.fits
    with RaySampler(capture, 0, rotate_every=1) as sampler:
        seen = {int(i) for step in range(6) for i in sampler.sample(50, step).rays.camera_index.unique()}
    assert seen == {0, 1, 2}


def test_pictures_cut_short_are_left_out_and_listed(folder):
    path = folder / "images/0001.exr"
    path.write_bytes(path.read_bytes()[:-200])
    (folder / "images/0002.exr").write_bytes(b"")
    capture = everything(folder)
    with RaySampler(capture, 0) as sampler:
        assert sampler.sample(100, 0).rays.camera_index.unique().tolist() == [0]
    named = [*capture.skipped, *capture.images.failures]
    assert sorted(item.path for item in named) == ["images/0001.exr", "images/0002.exr"]
    assert all("Copy the picture again" in item.reason for item in named)
