import numpy as np
import torch

from voxfield.data.ray_batches import RaySampler
from voxfield.data.scales import area_reduced
from voxfield.data.synthetic import posed_images

SCALES = (1, 2, 4)


def batch_of(captures, count=4096, step=0, **options):
    with RaySampler(captures, 3, **options) as sampler:
        return sampler.sample(count, step)


def test_a_moved_pixel_is_the_mean_of_the_block_around_its_ray():
    captures = posed_images(count=3, resolution=16).at_scales(SCALES)
    batch = batch_of(captures)
    factor = captures.scales.factor[batch.picture_index]
    for scale in SCALES:
        chosen = factor == scale
        assert 0.2 < float(chosen.float().mean()) < 0.5
        corner = batch.pixels[chosen] * scale - scale / 2
        torch.testing.assert_close(corner, corner.round(), atol=1e-4, rtol=0)
        column, row = corner.round().long().T
        finest = captures.scales.finest[captures.scales.image[batch.picture_index[chosen]]]
        for i in range(0, len(finest), 97):
            whole = captures.images.read(int(finest[i]))
            block = whole[row[i] : row[i] + scale, column[i] : column[i] + scale]
            expected = area_reduced(block, None, scale)[0].reshape(-1).float() / 255
            torch.testing.assert_close(batch.rgba[chosen][i, : len(expected)], expected, atol=0.003, rtol=0)


def test_places_are_spread_over_the_whole_image_and_repeat_with_the_seed():
    captures = posed_images(count=2, resolution=16).at_scales((1, 4))
    batch = batch_of(captures, 20_000)
    coarse = captures.scales.factor[batch.picture_index] == 4
    places = torch.unique(batch.pixels[coarse], dim=0)
    # 13 x 13 blocks of 4 x 4 lie in 16 x 16 pixels; the copy has 4 x 4.
    assert len(places) == 13 * 13
    assert float(batch.pixels.min()) >= 0.5
    assert float(batch.pixels[coarse].max()) <= 3.5
    again = batch_of(captures, 20_000)
    assert torch.equal(again.pixels, batch.pixels)
    assert torch.equal(again.rgba, batch.rgba)


def test_rays_go_through_the_middle_of_their_blocks():
    captures = posed_images(count=2, resolution=16).at_scales((1, 4))
    batch = batch_of(captures, 500)
    expected = captures.cameras.rays(batch.picture_index, batch.pixels)
    torch.testing.assert_close(batch.rays.directions, expected.directions)
    torch.testing.assert_close(batch.rays.pixel_area, expected.pixel_area)


def test_switched_off_pixels_are_those_of_the_copies():
    captures = posed_images(count=2, resolution=16).at_scales((1, 4))
    batch = batch_of(captures, shift_copies=False)
    torch.testing.assert_close(batch.pixels % 1, torch.full_like(batch.pixels, 0.5))


def test_pictures_without_copies_stay_as_they_are():
    captures = posed_images(count=2, resolution=16)
    torch.testing.assert_close(batch_of(captures).pixels % 1, torch.full((4096, 2), 0.5))


def test_rows_that_a_copy_leaves_out_are_left_out():
    cropped = posed_images(count=1, resolution=16).at_scales((1, 3), uneven="crop")
    batch = batch_of(cropped)
    coarse = cropped.scales.factor[batch.picture_index] == 3
    assert float(batch.pixels[coarse].max()) <= 4.5
    assert np.isfinite(batch.rgba.numpy()).all()
