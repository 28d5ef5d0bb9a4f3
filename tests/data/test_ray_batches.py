from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from voxfield.data.image_store import ImageStore, Picture
from voxfield.data.pixel_pool import PixelPool
from voxfield.data.ray_batches import RaySampler
from voxfield.data.sliding_pool import AHEAD
from voxfield.data.synthetic import cameras_around, posed_images
from voxfield.errors import FormatError, InputError


@pytest.fixture(scope="module")
def capture():
    return posed_images(count=5, resolution=24)


def coded_capture(tmp_path, count=20, *, cache_bytes=10**9, sizes=(8,), masks=False):
    """Pictures on disk whose pixels hold (picture, column, row)."""
    base = posed_images(count=1, resolution=8)
    pictures, widths = [], []
    for index in range(count):
        side = sizes[index % len(sizes)]
        rows, columns = np.mgrid[0:side, 0:side]
        array = np.stack([np.full((side, side), index), columns, rows], axis=-1).astype(np.uint8)
        path = tmp_path / f"{index}.png"
        Image.fromarray(array).save(path)
        mask_path = None
        if masks and index % 2:
            mask_path = tmp_path / f"mask{index}.png"
            Image.fromarray(((columns + rows + index) % 3 == 0).astype(np.uint8) * np.uint8(255)).save(mask_path)
        pictures.append(
            Picture(name=path.name, path=path, mask_path=mask_path, size=(side, side), full_size=(side, side))
        )
        widths.append(side)
    size = torch.tensor(widths)
    return replace(
        base,
        cameras=replace(cameras_around(count, resolution=8), width=size, height=size.clone()),
        images=ImageStore(pictures, channels=3, cache_bytes=cache_bytes),
        names=tuple(picture.name for picture in pictures),
        has_masks=masks,
        has_alpha=False,
    )


def decoded(batch):
    """(picture, column, row) as the colours say."""
    return (batch.rgba[:, :3] * 255).round().long()


def assert_consistent(batch):
    code = decoded(batch)
    assert torch.equal(code[:, 0], batch.rays.camera_index)
    assert torch.equal(code[:, 1:].float() + 0.5, batch.pixels)


def test_colours_are_those_of_the_pixels(capture):
    batch = RaySampler(capture, 1).sample(500, 3)
    for number in range(0, 500, 25):
        image = capture.images.read(int(batch.rays.camera_index[number]))
        column, row = batch.pixels[number].long().tolist()
        torch.testing.assert_close(batch.rgba[number], image[row, column].float() / 255)


def test_rays_are_those_of_the_pixels(capture):
    batch = RaySampler(capture, 1).sample(100, 3)
    again = capture.cameras.rays(batch.rays.camera_index, batch.pixels)
    assert torch.equal(batch.rays.directions, again.directions)


def test_a_batch_depends_on_seed_step_and_count_only(capture):
    sampler = RaySampler(capture, 7)
    first = sampler.sample(64, 10)
    sampler.sample(64, 11)
    again = RaySampler(capture, 7).sample(64, 10)
    assert torch.equal(first.pixels, again.pixels)
    assert torch.equal(first.rgba, again.rgba)
    assert not torch.equal(first.pixels, sampler.sample(64, 11).pixels)
    assert not torch.equal(first.pixels, RaySampler(capture, 8).sample(64, 10).pixels)


@pytest.mark.parametrize("masks", [False, True])
def test_pictures_of_different_sizes_are_drawn_pixel_by_pixel(tmp_path, masks):
    sampler = RaySampler(coded_capture(tmp_path, 6, sizes=(8, 5, 13), masks=masks), 0)
    assert_consistent(sampler.sample(3000, 0))


def test_pixels_are_drawn_uniformly(tmp_path):
    capture = coded_capture(tmp_path, 4, sizes=(8, 4))
    batch = RaySampler(capture, 3).sample(160_000, 0)
    seen = torch.zeros(4, 8, 8)
    code = decoded(batch)
    seen.index_put_(tuple(code.T), torch.ones(len(code)), accumulate=True)
    counts = torch.cat([seen[0].flatten(), seen[1, :4, :4].flatten(), seen[2].flatten(), seen[3, :4, :4].flatten()])
    # 160 pixels, 1,000 draws each: chi-square with 159 degrees of freedom stays below 235 in 9,999 of 10,000 cases.
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 235


def test_masked_pixels_are_never_drawn_and_all_others_are(tmp_path):
    capture = coded_capture(tmp_path, 4, sizes=(9,), masks=True)
    batch = RaySampler(capture, 5).sample(20_000, 0)
    assert_consistent(batch)
    code = decoded(batch)
    seen = torch.zeros(4, 9, 9, dtype=torch.bool)
    seen[code[:, 0], code[:, 2], code[:, 1]] = True
    for index in range(4):
        mask = capture.images.mask(index)
        assert torch.equal(seen[index], torch.ones(9, 9, dtype=torch.bool) if mask is None else mask)


def test_masks_that_leave_nothing_are_an_error(tmp_path):
    capture = coded_capture(tmp_path, 1)
    images = [torch.zeros(8, 8, 3, dtype=torch.uint8)]
    store = ImageStore.from_tensors(images, masks=[torch.zeros(8, 8, dtype=torch.bool)])
    with pytest.raises(FormatError, match="masks leave no pixel"):
        RaySampler(replace(capture, images=store), 0)


def test_broken_pictures_are_dropped_and_listed(tmp_path):
    capture = coded_capture(tmp_path, 4)
    (tmp_path / "2.png").write_bytes(b"broken")
    batch = RaySampler(capture, 0).sample(2000, 0)
    assert batch.rays.camera_index.unique().tolist() == [0, 1, 3]
    assert [failure.path for failure in capture.images.failures] == ["2.png"]
    assert_consistent(batch)


def test_only_broken_pictures_are_an_error(tmp_path):
    capture = coded_capture(tmp_path, 2)
    for index in range(2):
        (tmp_path / f"{index}.png").write_bytes(b"broken")
    with pytest.raises(FormatError, match=r"None of the 2 pictures .*0\.png: not a picture"):
        RaySampler(capture, 0)


def test_resident_pictures_are_shared_with_the_store(tmp_path):
    capture = coded_capture(tmp_path, 3, masks=True)
    sampler = RaySampler(capture, 0)
    (tmp_path / "1.png").unlink()
    image = capture.images.read(1)
    assert image[3, 5].tolist() == [1, 5, 3]
    pool = sampler._pool._colours
    assert pool.data_ptr() <= image.data_ptr() < pool.data_ptr() + pool.numel()
    assert capture.images.mask(0) is None
    assert capture.images.mask(1) is not None


class TestLargerThanMemory:
    """20 pictures of 192 bytes in a cache of 1,920: a pool of samples."""

    def sampler(self, tmp_path, seed=0, *, count=20, **options):
        capture = coded_capture(tmp_path, count, cache_bytes=10 * 8 * 8 * 3, **options)
        return RaySampler(capture, seed, rotate_every=3)

    def test_every_picture_is_seen_with_its_own_colours(self, tmp_path):
        with self.sampler(tmp_path) as sampler:
            assert sampler._sliding is not None
            seen = set()
            for step in range(3 * 20):
                batch = sampler.sample(400, step)
                assert_consistent(batch)
                seen |= set(batch.rays.camera_index.tolist())
            assert seen == set(range(20))

    def test_batches_do_not_depend_on_what_was_drawn_before(self, tmp_path):
        with self.sampler(tmp_path) as steady, self.sampler(tmp_path) as jumping:
            expected = {step: steady.sample(50, step) for step in range(25)}
            for step in (24, 2, 3, 17, 0):
                came = jumping.sample(50, step)
                assert torch.equal(came.rgba, expected[step].rgba)
                assert torch.equal(came.rays.camera_index, expected[step].rays.camera_index)

    def test_masks_and_sizes_take_part(self, tmp_path):
        with self.sampler(tmp_path, sizes=(8, 5), masks=True) as sampler:
            for step in range(30):
                batch = sampler.sample(200, step)
                assert_consistent(batch)
                for number in range(0, 200, 40):
                    mask = sampler.posed_images.images.mask(int(batch.rays.camera_index[number]))
                    column, row = batch.pixels[number].long().tolist()
                    assert mask is None or bool(mask[row, column])

    def test_a_picture_that_breaks_meanwhile_is_dropped_and_listed(self, tmp_path):
        with self.sampler(tmp_path) as sampler:
            assert 5 in sampler.sample(400, 0).rays.camera_index.tolist()
            (tmp_path / "5.png").write_bytes(b"broken")
            for step in range(1, 3 * 45):
                batch = sampler.sample(400, step)
            assert_consistent(batch)
            assert batch.rays.camera_index.unique().tolist() == [*range(5), *range(6, 20)]
            assert [failure.path for failure in sampler.posed_images.images.failures] == ["5.png"]

    def test_nothing_but_broken_pictures_is_an_error(self, tmp_path):
        capture = coded_capture(tmp_path, 20, cache_bytes=1920)
        for index in range(20):
            (tmp_path / f"{index}.png").write_bytes(b"broken")
        with pytest.raises(FormatError, match="None of the 20 pictures"):
            RaySampler(capture, 0)

    def test_nothing_but_masked_pixels_is_an_error(self, tmp_path):
        capture = coded_capture(tmp_path, 20, cache_bytes=1920)
        black = tmp_path / "black.png"
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(black)
        pictures = [replace(picture, mask_path=black) for picture in capture.images._pictures]
        store = ImageStore(pictures, channels=3, cache_bytes=1920)
        with pytest.raises(FormatError, match="masks leave no pixel"):
            RaySampler(replace(capture, images=store), 0)

    def test_sampling_goes_on_after_close(self, tmp_path):
        sampler = self.sampler(tmp_path)
        sampler.close()
        assert_consistent(sampler.sample(20, 9))
        sampler.close()

    def test_only_what_the_first_step_needs_is_decoded(self, tmp_path, monkeypatch):
        capture = coded_capture(tmp_path, 20, cache_bytes=1920)
        decoded = []
        decode = capture.images.decode
        monkeypatch.setattr(capture.images, "decode", lambda index: decoded.append(index) or decode(index))
        with RaySampler(capture, 0, first_step=1000) as sampler:
            sampler.sample(10, 1000)
        assert len(decoded) <= 20 + AHEAD


def test_pictures_in_memory_are_used_whole(capture):
    assert RaySampler(capture, 0)._sliding is None


def test_bad_requests_are_named(capture):
    sampler = RaySampler(capture, 0)
    with pytest.raises(InputError, match="num_rays"):
        sampler.sample(0, 0)
    with pytest.raises(InputError, match="step"):
        sampler.sample(1, -1)
    with pytest.raises(InputError, match="rotate_every"):
        RaySampler(capture, 0, rotate_every=0)
    with pytest.raises(InputError, match="first_step"):
        RaySampler(capture, 0, first_step=-1)


@pytest.mark.parametrize("masks", [False, True])
def test_pixels_are_drawn_as_often_as_they_repeat(tmp_path, masks):
    store = coded_capture(tmp_path, 4, sizes=(8, 10), masks=masks).images
    pool = PixelPool(
        store,
        slots=4,
        slot_pixels=[64, 100, 64, 100],
        device=torch.device("cpu"),
        repeats=torch.tensor([1, 16, 4, 1]),
    )
    pool.fill([0, 1, 2, 3], [0, 1, 2, 3])
    total = pool.publish([2, 0, 1])
    pixels = [64, 100 if not masks else int(store.mask(1).sum()), 64]
    assert total == pixels[0] + 16 * pixels[1] + 4 * pixels[2]
    drawn = pool.draw(20_000, torch.Generator().manual_seed(0))
    assert torch.equal(torch.stack([drawn.image_index, drawn.column, drawn.row], dim=1), drawn.colour.long())
    if masks:
        of_second = drawn.image_index == 1
        assert bool(store.mask(1)[drawn.row[of_second], drawn.column[of_second]].all())
    shares = drawn.image_index.bincount(minlength=4) / 20_000
    expected = torch.tensor([pixels[0], 16 * pixels[1], 4 * pixels[2], 0]) / total
    # Four standard deviations of a share are below 0.015.
    torch.testing.assert_close(shares, expected, atol=0.015, rtol=0)
    # Within a picture all alike: chi-square with 63 degrees of freedom stays below 120 in 9,999 of 10,000 cases.
    first = (drawn.image_index == 2).nonzero()[:, 0]
    counts = (8 * drawn.row[first] + drawn.column[first]).bincount(minlength=64).double()
    mean = counts.mean()
    assert float(((counts - mean) ** 2 / mean).sum()) < 120
