import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from voxfield.data.capture import CaptureOptions, DepthOptions
from voxfield.data.capture_reading import read_capture
from voxfield.data.decode import read_depth, read_depth_array
from voxfield.data.depth_targets import DepthSampler, axial_to_distance
from voxfield.data.posed_images import DepthImages, PosedImages
from voxfield.data.ray_batches import RaySampler
from voxfield.data.sparse_points import ObservedPoints
from voxfield.data.synthetic import cameras_around, posed_images, write_nerfstudio
from voxfield.errors import FormatError, InputError

IMAGES = DepthOptions(source="images")
POINTS = DepthOptions(source="points")


def write_depth(path: Path, steps: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(steps.astype(np.uint16)).save(path)
    return path


def coded_steps(index: int, width: int = 12, height: int = 10) -> np.ndarray:
    """Values that say picture, row and column; above 2**15, so that a sign would show."""
    rows, columns = np.mgrid[0:height, 0:width]
    return 33_000 + 1000 * index + 20 * rows + columns


def capture_with_depth(folder: Path, **options: object) -> PosedImages:
    """Three pictures, of which the second has no depth image."""
    base = posed_images(count=3, resolution=10)
    base = replace(base, cameras=base.cameras.resized(12, 10))
    paths = (write_depth(folder / "0.png", coded_steps(0)), None, write_depth(folder / "2.png", coded_steps(2)))
    store = base.images.from_tensors([torch.zeros(10, 12, 3, dtype=torch.uint8)] * 3)
    store.cache_bytes = 10_000
    return replace(base, images=store, depth_images=DepthImages(paths=paths, unit=1e-3), has_alpha=False)


def sample(capture: PosedImages, options: DepthOptions, *, seed: int = 0, step: int = 3):
    with RaySampler(capture, seed) as batches:
        return DepthSampler(batches, capture, options, seed=seed).sample(200, step)


def test_a_depth_along_the_axis_becomes_a_distance_along_the_ray():
    cameras = cameras_around(4, resolution=16)
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(40, 3, generator=generator, dtype=torch.float64) - 0.5
    index = torch.arange(40) % 4
    pixels, depth = cameras.project(index, points)
    rays = cameras.rays(index, pixels.float())
    expected = (points - cameras.origins[index].double()).norm(dim=1)
    # Directions are float32.
    torch.testing.assert_close(axial_to_distance(cameras, rays, depth), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("model", ["fisheye", "orthographic"])
def test_other_lenses_convert_too(model):
    cameras = replace(cameras_around(2, resolution=16), model=model)
    points = 0.4 * torch.rand(20, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    index = torch.arange(20) % 2
    pixels, depth = cameras.project(index, points)
    rays = cameras.rays(index, pixels.float())
    distance = axial_to_distance(cameras, rays, depth)
    torch.testing.assert_close(rays.origins + distance[:, None] * rays.directions, points, rtol=0, atol=3e-6)


def test_what_lies_sideways_or_behind_is_unknown():
    cameras = cameras_around(1, resolution=8)
    forward, right = cameras.forward[0], cameras.camera_to_world[0, :, 0]
    base = cameras.rays(torch.zeros(3, dtype=torch.int64), torch.full((3, 2), 4.0))
    rays = replace(base, directions=torch.stack([forward, right, -forward]))
    distance = axial_to_distance(cameras, rays, torch.full((3,), 2.0))
    torch.testing.assert_close(distance, torch.tensor([2.0, 0.0, 0.0]))


def test_depth_images_are_looked_up_at_the_batchs_own_pixels(tmp_path):
    capture = capture_with_depth(tmp_path)
    batch = sample(capture, replace(IMAGES, along="ray"))
    assert batch.depth.rays is None
    camera, (column, row) = batch.rays.camera_index, batch.pixels.long().unbind(-1)
    expected = (33_000 + 1000 * camera + 20 * row + column).float() * 1e-3
    torch.testing.assert_close(batch.depth.distances, torch.where(camera == 1, 0.0, expected))
    axial = sample(capture, IMAGES)
    cosine = (batch.rays.directions * capture.cameras.forward[camera]).sum(-1)
    torch.testing.assert_close(axial.depth.distances, batch.depth.distances / cosine)


def test_sparse_points_get_rays_of_their_own():
    capture = posed_images(count=3, resolution=16)
    world = 0.3 * torch.rand(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    observed = []
    for index in range(3):
        pixels, depth = capture.cameras.project(torch.full((50,), index), world)
        errors = torch.full((50,), 0.5)
        observed.append(ObservedPoints(pixels=pixels.float(), depth=depth.float(), errors=errors))
    capture = replace(capture, observed=tuple(observed))
    batch = sample(capture, replace(POINTS, point_rays=0.5))
    rays, distances = batch.depth.rays, batch.depth.distances
    assert len(rays) == len(distances) == 100
    ends = (rays.origins + distances[:, None] * rays.directions).double()
    assert float(torch.cdist(ends, world).amin(1).max()) < 1e-5


def test_surer_points_are_drawn_more_often():
    capture = posed_images(count=1, resolution=16)
    seen = ObservedPoints(
        pixels=torch.tensor([[4.0, 4.0], [12.0, 12.0]]), depth=torch.tensor([1.0, 2.0]), errors=torch.tensor([0.0, 2.0])
    )
    capture = replace(capture, observed=(seen,))
    with RaySampler(capture, 0) as batches:
        sampler = DepthSampler(batches, capture, replace(POINTS, point_rays=4.0), seed=0)
        depth = torch.cat([sampler.sample(500, step).depth.distances for step in range(4)])
    share = float((depth < 1.5).float().mean())
    # exp(0) to exp(-4), drawn 8000 times.
    assert share == pytest.approx(1 / (1 + np.exp(-4.0)), abs=0.01)


def test_points_without_stated_errors_are_alike():
    capture = posed_images(count=1, resolution=16)
    seen = ObservedPoints(
        pixels=torch.full((4, 2), 8.0), depth=torch.arange(1.0, 5.0), errors=torch.full((4,), torch.nan)
    )
    distances = sample(replace(capture, observed=(seen,)), replace(POINTS, point_rays=4.0)).depth.distances
    assert bool((torch.histc(distances, 4, 1.0, 4.1) > 150).all())


@pytest.mark.parametrize("options", [IMAGES, POINTS])
def test_batches_depend_on_seed_and_step_alone(tmp_path, options):
    capture = capture_with_depth(tmp_path)
    seen = ObservedPoints(pixels=torch.rand(30, 2) * 10, depth=torch.rand(30) + 1, errors=torch.rand(30))
    capture = replace(capture, observed=(seen,) * 3)
    one, same, other = (sample(capture, options, step=step).depth.distances for step in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_auto_prefers_images(tmp_path):
    capture = capture_with_depth(tmp_path)
    seen = ObservedPoints(pixels=torch.ones(1, 2), depth=torch.ones(1), errors=torch.ones(1))
    both, points = replace(capture, observed=(seen,) * 3), replace(capture, observed=(seen,) * 3, depth_images=None)
    assert sample(both, DepthOptions(source="auto")).depth.rays is None
    assert sample(points, DepthOptions(source="auto")).depth.rays is not None


@pytest.mark.parametrize("source", ["auto", "images", "points"])
def test_a_capture_without_depth_is_refused(source):
    capture = posed_images(count=1, resolution=8)
    with (
        RaySampler(capture, 0) as batches,
        pytest.raises(FormatError, match=r"has no .*depth_file_path.*train nerfacto"),
    ):
        DepthSampler(batches, capture, DepthOptions(source=source), seed=0)


def test_broken_depth_images_are_left_out_and_named(tmp_path):
    capture = capture_with_depth(tmp_path)
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:60])
    with RaySampler(capture, 0) as batches:
        sampler = DepthSampler(batches, capture, IMAGES, seed=0)
        assert [item.path for item in sampler.left_out] == [capture.names[2]]
        (tmp_path / "0.png").unlink()
        with pytest.raises(FormatError, match=r"None of the 2 depth images of the train split.*no such file"):
            DepthSampler(batches, capture, IMAGES, seed=0)


def test_depth_images_have_a_bound(tmp_path):
    capture = capture_with_depth(tmp_path)
    with RaySampler(capture, 0) as batches:
        capture.images.cache_bytes = 719
        with pytest.raises(InputError, match=r"720 bytes, more than capture\.cache_bytes"):
            DepthSampler(batches, capture, IMAGES, seed=0)


def test_a_depth_image_of_another_resolution_is_sampled_not_averaged(tmp_path):
    path = write_depth(tmp_path / "depth.png", coded_steps(0, width=24, height=20))
    steps = read_depth(path, size=(12, 10)).numpy().view(np.uint16)
    rows, columns = np.mgrid[0:10, 0:12]
    assert np.array_equal(steps, 33_000 + 20 * (2 * rows + 1) + 2 * columns + 1)
    small = read_depth(path, size=(48, 40)).numpy().view(np.uint16)
    assert np.array_equal(small[::2, ::2], coded_steps(0, width=24, height=20))


def test_other_files_are_no_depth_images(tmp_path):
    Image.new("L", (12, 10)).save(tmp_path / "grey.png")
    with pytest.raises(FormatError, match=r"grey\.png: expected a depth image of 16 bits, grey, got mode L"):
        read_depth(tmp_path / "grey.png", size=(12, 10))
    path = write_depth(tmp_path / "square.png", coded_steps(0, width=10, height=10))
    with pytest.raises(FormatError, match="is 10x10 pixels, expected the shape of its picture, 12x10"):
        read_depth(path, size=(12, 10))
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(FormatError, match="not a picture"):
        read_depth(tmp_path / "text.png", size=(12, 10))


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2", "<u2", "<i4"])
@pytest.mark.parametrize("shape", [(20, 24), (20, 24, 1)])
def test_depth_arrays_are_sampled_as_images_are(tmp_path, dtype, shape):
    steps = coded_steps(0, width=24, height=20)
    path = tmp_path / "depth.npy"
    np.save(path, (steps - 33_000).astype(dtype).reshape(shape))
    expected = read_depth(write_depth(tmp_path / "depth.png", steps - 33_000), size=(12, 10))
    assert torch.equal(read_depth_array(path, size=(12, 10)), expected.float())


def test_where_a_depth_array_has_no_length_nothing_is_known(tmp_path):
    values = np.full((10, 12), 2.5)
    values[0, :5] = np.nan, np.inf, -np.inf, -1.0, 1e300
    np.save(tmp_path / "depth.npy", values)
    depth = read_depth_array(tmp_path / "depth.npy", size=(12, 10))
    assert depth[0, :5].tolist() == [0.0] * 5
    assert bool((depth.view(-1)[5:] == 2.5).all())


def test_other_arrays_are_no_depths(tmp_path):
    path = tmp_path / "depth.npy"
    for values, words in (
        (np.zeros((10, 10), np.float32), "is 10x10 pixels, expected the shape of its picture, 12x10"),
        (np.zeros((0, 12)), "is 12x0 pixels"),
        (np.zeros(120), r"expected rows and columns of depths, got an array \(120,\)"),
        (np.zeros((10, 12, 3)), "expected rows and columns"),
        (np.zeros((10, 12), complex), "of complex128"),
    ):
        np.save(path, values)
        with pytest.raises(FormatError, match=words):
            read_depth_array(path, size=(12, 10))
    path.write_bytes(b"hello")
    with pytest.raises(FormatError, match=r"no readable \.npy file"):
        read_depth_array(path, size=(12, 10))
    path.unlink()
    with pytest.raises(FormatError, match="no such file"):
        read_depth_array(path, size=(12, 10))


def test_depth_arrays_and_images_are_supervised_side_by_side(tmp_path):
    capture = capture_with_depth(tmp_path)
    np.save(tmp_path / "1.npy", coded_steps(1) + 0.25)
    first, _, third = capture.depth_images.paths
    capture = replace(capture, depth_images=DepthImages(paths=(first, tmp_path / "1.npy", third), unit=1e-3))
    batch = sample(capture, replace(IMAGES, along="ray"))
    camera, (column, row) = batch.rays.camera_index, batch.pixels.long().unbind(-1)
    expected = (33_000 + 1000 * camera + 20 * row + column).float() + torch.where(camera == 1, 0.25, 0.0)
    torch.testing.assert_close(batch.depth.distances, expected * 1e-3)
    with RaySampler(capture, 0) as batches:
        capture.images.cache_bytes = 1439
        with pytest.raises(InputError, match=r"1440 bytes, more than capture\.cache_bytes"):
            DepthSampler(batches, capture, IMAGES, seed=0)


def test_no_damage_gets_past_the_decoder(tmp_path):
    good = write_depth(tmp_path / "depth.png", coded_steps(0)).read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(80):
        damaged = bytearray(good)
        for place in generator.integers(0, len(damaged), 3):
            damaged[place] = generator.integers(0, 256)
        (tmp_path / "depth.png").write_bytes(damaged)
        try:
            assert read_depth(tmp_path / "depth.png", size=(12, 10)).shape == (10, 12)
        except FormatError:
            continue


def test_transforms_json_names_depth_images_in_millimetres(tmp_path):
    write_nerfstudio(tmp_path, posed_images(count=9, resolution=8))
    file = tmp_path / "transforms.json"
    table = json.loads(file.read_text())
    assert read_capture(tmp_path).depth_images is None
    table["frames"][1]["depth_file_path"] = "depth/1.png"
    file.write_text(json.dumps(table))
    capture = read_capture(tmp_path)
    assert capture.depth_images.paths == (tmp_path / "depth/1.png", *[None] * 6)
    # A metre of the file is transform.scale world units.
    assert capture.depth_images.unit == pytest.approx(1e-3 * capture.transform.scale)
    coarse = CaptureOptions(depth=DepthOptions(unit=0.5))
    assert read_capture(tmp_path, options=coarse).depth_images.unit == pytest.approx(0.5 * capture.transform.scale)
    # The file may say what a step is worth; the option wins.
    file.write_text(json.dumps({**table, "depth_unit_scale_factor": 0.25}))
    assert read_capture(tmp_path).depth_images.unit == pytest.approx(0.25 * capture.transform.scale)
    assert read_capture(tmp_path, options=coarse).depth_images.unit == pytest.approx(0.5 * capture.transform.scale)
    for bad in (0, -1, "millimetres", 1e300):
        file.write_text(json.dumps({**table, "depth_unit_scale_factor": bad}))
        with pytest.raises(FormatError, match="expected depth_unit_scale_factor to be a number above 0"):
            read_capture(tmp_path)
    table["frames"][1]["depth_file_path"] = "../elsewhere.png"
    file.write_text(json.dumps(table))
    with pytest.raises(FormatError, match="leads outside the data folder"):
        read_capture(tmp_path)


@pytest.mark.parametrize("bad", [{"source": "lidar"}, {"along": "z"}, {"unit": 0.0}, {"point_rays": 5.0}])
def test_options_are_checked(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        DepthOptions(**bad)
    with pytest.raises(InputError, match="source"):
        DepthSampler(None, posed_images(count=1, resolution=8), DepthOptions(), seed=0)
