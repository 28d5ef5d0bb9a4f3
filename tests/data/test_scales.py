from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from voxfield.data.capture import CaptureOptions, DepthOptions
from voxfield.data.capture_reading import read_capture
from voxfield.data.depth_targets import DepthSampler
from voxfield.data.image_store import ImageStore, Picture
from voxfield.data.ray_batches import RayBatch, RaySampler
from voxfield.data.scales import (
    Dropped,
    Scales,
    area_reduced,
    check_scales,
    check_schedule,
    dropped_by,
    finest_at,
)
from voxfield.data.sparse_points import ObservedPoints
from voxfield.data.synthetic import posed_images
from voxfield.errors import InputError

SCALES = (1, 2, 4, 8)


@pytest.fixture(scope="module")
def scene():
    return posed_images(count=3, resolution=32)


@pytest.fixture(scope="module")
def scaled(scene):
    return scene.at_scales(SCALES)


def premultiplied_means(image, factor):
    """Block means of premultiplied RGBA, written as plainly as can be."""
    values = image.double().numpy() / 255
    values[..., :3] *= values[..., 3:]
    height, width = values.shape[0] // factor, values.shape[1] // factor
    means = np.zeros((height, width, 4))
    for row in range(height):
        for column in range(width):
            block = values[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
            means[row, column] = block.reshape(-1, 4).mean(axis=0)
    return means


@pytest.mark.parametrize("factor", [2, 3, 8])
def test_colours_are_averaged_premultiplied(factor):
    generator = torch.Generator().manual_seed(factor)
    image = torch.randint(0, 256, (4 * factor, 3 * factor, 4), generator=generator, dtype=torch.uint8)
    image[:factor, :, 3] = 0
    reduced, mask = area_reduced(image, None, factor)
    assert mask is None
    assert reduced.dtype == torch.uint8
    shown = reduced.double().numpy() / 255
    # Over any background what is shown is what was averaged, to the rounding of the 8 bits.
    np.testing.assert_allclose(shown[..., 3], premultiplied_means(image, factor)[..., 3], atol=0.51 / 255)
    np.testing.assert_allclose(
        shown[..., :3] * shown[..., 3:], premultiplied_means(image, factor)[..., :3], atol=1.02 / 255
    )


def test_linear_light_is_averaged_unrounded_and_masks_shrink():
    image = torch.rand(8, 12, 3, generator=torch.Generator().manual_seed(0)) * 50
    mask = torch.ones(8, 12, dtype=torch.bool)
    mask[5, 7] = False
    reduced, kept = area_reduced(image, mask, 4)
    torch.testing.assert_close(reduced, image.reshape(2, 4, 3, 4, 3).mean(dim=(1, 3)))
    assert kept.tolist() == [[True, True, True], [True, False, True]]


def test_what_does_not_divide_is_left_out_at_the_end():
    image = torch.randint(0, 256, (7, 9, 3), dtype=torch.uint8)
    assert torch.equal(area_reduced(image, None, 4)[0], area_reduced(image[:4, :8].contiguous(), None, 4)[0])


def test_strips_make_no_difference(monkeypatch):
    image = torch.randint(0, 256, (64, 24, 4), dtype=torch.uint8)
    whole = area_reduced(image, None, 4)[0]
    monkeypatch.setattr("voxfield.data.scales._STRIP_BYTES", 1)
    assert torch.equal(area_reduced(image, None, 4)[0], whole)


def test_every_image_is_there_at_every_scale(scene, scaled):
    assert len(scaled) == len(scene) * 4
    assert scaled.num_images == len(scene)
    assert scaled.names[:5] == (scene.names[0],) * 4 + (scene.names[1],)
    assert scaled.cameras.width.tolist() == [32, 16, 8, 4] * 3
    assert scaled.scales.factor.tolist() == [1, 2, 4, 8] * 3
    assert scaled.scales.image.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert scaled.scales.weight.tolist() == [1.0, 4.0, 16.0, 64.0] * 3
    assert scaled.scales.values == SCALES
    for picture, factor in enumerate(scaled.scales.factor.tolist()):
        assert scaled.images.shape(picture) == (32 // factor, 32 // factor, 4)
        expected = area_reduced(scene.images.read(picture // 4), None, factor)[0]
        assert torch.equal(scaled.images.read(picture), expected)


def test_cameras_of_copies_see_the_same_with_wider_pixels(scene, scaled):
    fine = scaled.cameras.rays(torch.tensor([0]), torch.tensor([[16.0, 8.0]]))
    coarse = scaled.cameras.rays(torch.tensor([3]), torch.tensor([[2.0, 1.0]]))
    torch.testing.assert_close(fine.directions, coarse.directions)
    torch.testing.assert_close(coarse.pixel_area, fine.pixel_area * 64)
    assert torch.equal(scaled.image_cameras.focal, scene.cameras.focal)
    assert torch.equal(scaled.image_cameras.camera_to_world, scene.cameras.camera_to_world)


def test_cropped_copies_keep_their_directions():
    scene = posed_images(count=1, resolution=30)
    scaled = scene.at_scales((1, 4), uneven="crop")
    assert scaled.cameras.width.tolist() == [30, 7]
    rays = scaled.cameras.rays(torch.tensor([0, 1]), torch.tensor([[8.0, 20.0], [2.0, 5.0]]))
    torch.testing.assert_close(rays.directions[0], rays.directions[1])


def test_batches_hold_every_scale_alike_and_count_images(scaled):
    batch = RaySampler(scaled, 0, shift_copies=False).sample(4000, 0)
    picture = batch.picture_index
    assert torch.equal(batch.rays.camera_index, picture // 4)
    assert batch.weights is None
    for number in range(0, 4000, 250):
        column, row = batch.pixels[number].long().tolist()
        expected = scaled.images.read(int(picture[number]))[row, column].float() / 255
        torch.testing.assert_close(batch.rgba[number], expected)
    # To the accuracy of so many draws: a standard deviation is 0.007.
    shares = (picture % 4).bincount(minlength=4) / 4000
    torch.testing.assert_close(shares, torch.full((4,), 0.25), atol=0.03, rtol=0)


def test_one_scale_changes_nothing(scene, tiny_capture):
    batch = RaySampler(scene, 0).sample(16, 0)
    assert batch.weights is None
    assert batch.picture_index is None
    read = read_capture(tiny_capture, options=CaptureOptions(scales=(1,)))
    assert read.scales is None
    assert read.num_images == len(read)
    assert read.image_cameras is read.cameras


def test_the_mean_of_a_batch_counts_weights():
    rays = RaySampler(posed_images(count=1, resolution=8), 0).sample(2, 0)
    errors = torch.tensor([[1.0, 3.0], [5.0, 5.0]], requires_grad=True)
    plain = RayBatch(rays=rays.rays, pixels=rays.pixels, rgba=rays.rgba)
    assert plain.mean(errors).item() == errors.mean().item()
    weighted = replace(plain, weights=torch.tensor([1.0, 3.0]))
    assert weighted.mean(errors).item() == pytest.approx((1 * 2 + 3 * 5) / 4)
    weighted.mean(errors).backward()
    torch.testing.assert_close(errors.grad, torch.tensor([[0.125, 0.125], [0.375, 0.375]]))


def test_a_schedule_goes_from_coarse_to_fine(scaled):
    sampler = RaySampler(scaled, 0, scale_schedule={0: 8, 20: 4, 50: 2, 100: 1})
    seen = {step: sampler.sample(500, step) for step in (0, 19, 20, 49, 50, 99, 100, 5)}
    smallest = {step: scaled.scales.factor[batch.picture_index].min().item() for step, batch in seen.items()}
    assert smallest == {0: 8, 19: 8, 20: 4, 49: 4, 50: 2, 99: 2, 100: 1, 5: 8}
    # Coarser ones stay, and a resumed run draws what an uninterrupted one would.
    assert scaled.scales.factor[seen[20].picture_index].max().item() == 8
    again = RaySampler(scaled, 0, scale_schedule={0: 8, 20: 4, 50: 2, 100: 1}, first_step=49).sample(500, 49)
    assert torch.equal(again.rgba, seen[49].rgba)
    assert torch.equal(again.picture_index, seen[49].picture_index)


def test_schedules_are_for_pictures_in_memory(tiny_capture):
    small = CaptureOptions(scales=(1, 2), cache_bytes=20_000)
    with pytest.raises(InputError, match="in memory, more than the image cache"):
        RaySampler(read_capture(tiny_capture, options=small), 0, scale_schedule={0: 2, 10: 1})


def test_captures_larger_than_memory_have_scales_too(tiny_capture):
    options = CaptureOptions(scales=(1, 2), cache_bytes=20_000)
    captures = read_capture(tiny_capture, options=options)
    with RaySampler(captures, 0, rotate_every=1) as sampler:
        for step in range(3):
            batch = sampler.sample(50, step)
            for number in range(0, 50, 10):
                column, row = batch.pixels[number].long().tolist()
                expected = captures.images.read(int(batch.picture_index[number]))[row, column].float() / 255
                torch.testing.assert_close(batch.rgba[number], expected)
            assert torch.equal(batch.rays.camera_index, batch.picture_index // 2)
            # Drawn from alike: what a scale lacks in pixels, weights make up for.
            assert torch.equal(batch.weights, captures.scales.weight[batch.picture_index])


@pytest.mark.parametrize("scales", [(), (0, 1), (2, 1), (1, 1, 2), (-2,), (1.5,), (True,), (1, 4096)])
def test_scales_that_make_no_sense_are_refused(scales):
    with pytest.raises(InputError, match="scales: expected"):
        CaptureOptions(scales=scales)
    with pytest.raises(InputError, match="scales: expected"):
        check_scales(scales)


@pytest.mark.parametrize("schedule", [{}, {5: 8}, {0: 8, 10: 8}, {0: 1, 10: 2}, {0: 8, 20: 4, 10: 2}, {0: 0}])
def test_schedules_that_make_no_sense_are_refused(schedule):
    with pytest.raises(InputError, match="scale_schedule: expected"):
        CaptureOptions(scales=SCALES, scale_schedule=schedule)


def test_a_schedule_needs_its_scales(scene, scaled):
    with pytest.raises(InputError, match="begins with scale 16, but the coarsest picture has 8"):
        RaySampler(scaled, 0, scale_schedule={0: 16})
    with pytest.raises(InputError, match="begins with scale 8, but the coarsest picture has 1"):
        RaySampler(scene, 0, scale_schedule={0: 8, 10: 1})
    check_schedule({0: 8, 10: 1}, SCALES)
    assert [finest_at({0: 8, 10: 1}, step) for step in (0, 9, 10, 99)] == [8, 8, 1, 1]


def test_pictures_that_a_scale_does_not_divide_are_named(tiny_capture):
    with pytest.raises(InputError, match=r"r_0.*32x32 pixels, which scale 3 does not divide.*uneven_scales=crop"):
        read_capture(tiny_capture, options=CaptureOptions(scales=(1, 3)))
    cropped = read_capture(tiny_capture, options=CaptureOptions(scales=(1, 3), uneven_scales="crop"))
    assert cropped.images.read(1).shape == (10, 10, 4)


def test_what_cropping_leaves_out_is_counted(tiny_capture):
    assert dropped_by([(30, 33, 3), (30, 32, 4), (24, 24, 3)], (1, 2, 4, 8)) == (
        Dropped(scale=2, pictures=1, rows=0, columns=1),
        Dropped(scale=4, pictures=2, rows=2, columns=1),
        Dropped(scale=8, pictures=2, rows=6, columns=1),
    )
    cropped = read_capture(tiny_capture, options=CaptureOptions(scales=(1, 2, 3), uneven_scales="crop"))
    assert cropped.scales.dropped == (Dropped(scale=3, pictures=10, rows=2, columns=2),)
    assert read_capture(tiny_capture, options=CaptureOptions(scales=(1, 2))).scales.dropped == ()


def test_pictures_smaller_than_a_scale_are_named(tiny_capture):
    with pytest.raises(InputError, match=r"r_0.*32x32 pixels, too small for scale 64. Leave out the scales above 2"):
        read_capture(tiny_capture, options=CaptureOptions(scales=(1, 2, 64), uneven_scales="crop"))


def test_scales_are_made_once(scaled):
    with pytest.raises(InputError, match="at several scales already"):
        scaled.at_scales((1, 2))


def test_copies_of_copies_are_reduced_by_both():
    image = torch.randint(0, 256, (16, 24, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    store = ImageStore.from_tensors([image]).at_scales((1, 2)).at_scales((1, 4))
    assert [store.shape(index)[:2] for index in range(4)] == [(16, 24), (4, 6), (8, 12), (2, 3)]
    assert torch.equal(store.read(3), area_reduced(image, None, 8)[0])


def test_copies_of_a_file_are_made_of_one_decoding(tmp_path, monkeypatch):
    pictures = []
    for index in range(3):
        path = tmp_path / f"{index}.png"
        Image.fromarray(np.full((8, 8, 3), 40 * index, dtype=np.uint8)).save(path)
        pictures.append(Picture(name=path.name, path=path, mask_path=None, size=(8, 8), full_size=(8, 8)))
    (tmp_path / "1.png").write_bytes(b"broken")
    store = ImageStore(pictures, channels=3, cache_bytes=10**6).at_scales((1, 2, 4))
    decoded, opened = {}, []
    original = ImageStore._decode_srgb
    monkeypatch.setattr(ImageStore, "_decode_srgb", lambda self, one: opened.append(one.name) or original(self, one))
    store.decode_many(list(range(9)), decoded.__setitem__)
    assert sorted(opened) == ["0.png", "1.png", "2.png"]
    assert [decoded[index] is None for index in range(9)] == [False] * 3 + [True] * 3 + [False] * 3
    assert decoded[8][0].shape == (2, 2, 3)
    assert decoded[8][0].unique().item() == 80
    assert len(store.failures) == 1
    assert torch.equal(store.read(8), decoded[8][0])
    assert store.total_bytes == 3 * 3 * (64 + 16 + 4)


def test_pynerf_files_state_their_scales(tmp_path, captures):
    captures.write_pynerf(tmp_path, captures.some_cameras(centred=True))
    read = read_capture(tmp_path)
    assert read.scales.factor.tolist() == [1, 2] * (len(read) // 2)
    assert read.num_images == len(read) // 2
    batch = RaySampler(read, 0).sample(200, 0)
    assert batch.weights is None, "pixels of both scales are drawn by their weights"
    assert torch.equal(batch.rays.camera_index, batch.picture_index // 2)
    few = read_capture(tmp_path, options=CaptureOptions(max_images=2))
    assert few.scales.factor.tolist() == [1, 2, 1, 2]
    same = read_capture(tmp_path, options=CaptureOptions(scales=(1, 2)))
    assert torch.equal(same.scales.factor, read.scales.factor)
    with pytest.raises(InputError, match=r"at several scales already \(1, 2\)"):
        read_capture(tmp_path, options=CaptureOptions(scales=(1, 2, 4)))


def test_files_of_one_weight_have_one_scale(tmp_path, captures):
    captures.write_pynerf(tmp_path, captures.some_cameras(centred=True))

    def equal(values):
        values["train"]["lossmult"] = [4.0] * len(values["train"]["lossmult"])

    captures.edit_json(tmp_path / "metadata.json", equal)
    assert read_capture(tmp_path).scales is None


def test_sparse_points_are_seen_from_the_images(scene):
    seen = ObservedPoints(
        pixels=torch.tensor([[16.0, 16.0]]), depth=torch.tensor([2.0]), errors=torch.tensor([float("nan")])
    )
    scaled = replace(scene, observed=(seen,) * len(scene)).at_scales((2, 4))
    torch.testing.assert_close(scaled.observed[1].pixels, torch.tensor([[4.0, 4.0]]))
    options = DepthOptions(source="points", point_rays=1.0)
    batch = DepthSampler(RaySampler(scaled, 0), scaled, options, seed=0).sample(32, 0)
    assert int(batch.depth.rays.camera_index.max()) < scaled.num_images
    along = scaled.image_cameras.forward[batch.depth.rays.camera_index]
    cosine = (along * batch.depth.rays.directions).sum(-1)
    torch.testing.assert_close(batch.depth.distances * cosine, torch.full((32,), 2.0))


def test_copies_and_finest_pictures_are_found_in_any_order():
    scales = Scales.of_pictures(["b", "a", "b", "a", "c"], [4.0, 1.0, 1.0, 16.0, 4.0])
    assert scales.image.tolist() == [0, 1, 0, 1, 2]
    assert scales.factor.tolist() == [2, 1, 1, 4, 2]
    assert scales.finest.tolist() == [2, 1, 4]
    assert scales.copies_of([0, 2]) == [0, 2, 4]
