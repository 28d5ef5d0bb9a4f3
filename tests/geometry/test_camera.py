import math
from dataclasses import replace

import pytest
import torch

from voxfield.data.synthetic import cameras_around
from voxfield.errors import InputError
from voxfield.geometry.camera import Cameras
from voxfield.geometry.lenses import COEFFICIENTS
from voxfield.geometry.rays import Rays

PHONE = (0.0578421, -0.0805099, 0.0, 0.0, -0.000980296, 0.00015575)
RATIONAL = (0.5, -2.6, 1.5, 0.0, 0.0006, -0.0002, 0.38, -2.45, 1.44)
KINDS = (
    "plain",
    "distorted",
    "rational",
    "fisheye",
    "distorted fisheye",
    "equirectangular",
    "orthographic",
    *COEFFICIENTS,
)
CURVED = {
    "fov": (0.9,),
    "division": (-0.3,),
    "eucm": (0.6, 1.1),
    "thin_prism_fisheye": (-0.03, 0.01, 0.001, -0.002, 0.003, -0.001, 0.004, -0.003),
    "rad_tan_thin_prism_fisheye": (0.4, -0.5, 0.2, 0.1, -0.1, 0.02, 0.002, -0.001, 0.003, 0.001, -0.002, 0.004),
}


def cameras_of(kind: str, count: int = 3, resolution: int = 40) -> Cameras:
    cameras = cameras_around(count, resolution=resolution, field_of_view=1.0)
    cameras = replace(cameras, focal=cameras.focal * torch.tensor([1.0, 1.1]), principal=cameras.principal + 1.5)
    if "distorted" in kind:
        cameras = replace(cameras, distortion=torch.tensor([PHONE]).repeat(count, 1))
    if kind == "rational":
        cameras = replace(cameras, distortion=torch.tensor([RATIONAL]).repeat(count, 1))
    if kind == "equirectangular":
        focal = torch.tensor([resolution / (2 * math.pi), resolution / math.pi]).repeat(count, 1)
        return replace(cameras, model="equirectangular", focal=focal, principal=torch.full_like(focal, resolution / 2))
    if kind == "orthographic":
        return replace(cameras, model="orthographic", focal=torch.full_like(cameras.focal, resolution / 3))
    if kind in CURVED:
        return replace(cameras, model=kind, distortion=torch.tensor([CURVED[kind]]).repeat(count, 1))
    return replace(cameras, model="fisheye") if "fisheye" in kind else cameras


def one_camera(**changes) -> Cameras:
    return replace(
        Cameras(
            camera_to_world=torch.eye(4)[None, :3].clone(),
            focal=torch.tensor([[100.0, 100.0]]),
            principal=torch.tensor([[32.0, 24.0]]),
            width=torch.tensor([64]),
            height=torch.tensor([48]),
        ),
        **changes,
    )


def test_axes_are_those_of_opengl():
    index = torch.zeros(3, dtype=torch.int64)
    rays = one_camera().rays(index, torch.tensor([[32.0, 24.0], [132.0, 24.0], [32.0, 124.0]]))
    half = 0.5**0.5
    expected = torch.tensor([[0.0, 0.0, -1.0], [half, 0.0, -half], [0.0, -half, -half]])
    torch.testing.assert_close(rays.directions, expected)


def test_the_centre_of_the_picture_looks_along_the_optical_axis_exactly():
    cameras = one_camera(principal=torch.tensor([[32.5, 24.5]]))
    middle = 24 * 64 + 32
    torch.testing.assert_close(cameras.image_rays(0).directions[middle], torch.tensor([0.0, 0.0, -1.0]))


@pytest.mark.parametrize("kind", KINDS)
def test_directions_are_unit_and_origins_are_the_cameras(kind):
    cameras = cameras_of(kind)
    rays = cameras.image_rays(1)
    assert len(rays) == 1600
    torch.testing.assert_close(rays.directions.norm(dim=-1), torch.ones(1600))
    if kind == "orthographic":
        # They start in the plane through the camera's centre.
        ahead = (rays.origins - cameras.origins[1]) @ cameras.forward[1]
        torch.testing.assert_close(ahead, torch.zeros(1600), atol=1e-6, rtol=0)
    else:
        torch.testing.assert_close(rays.origins, cameras.origins[1].expand(1600, 3))
    assert rays.camera_index.tolist() == [1] * 1600
    for tensor in (rays.origins, rays.directions, rays.pixel_area):
        assert tensor.is_contiguous()
        assert tensor.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_single_rays_equal_those_of_the_whole_picture(kind):
    cameras = cameras_of(kind)
    generator = torch.Generator().manual_seed(3)
    index = torch.randint(3, (50,), generator=generator)
    cells = torch.randint(40, (50, 2), generator=generator)
    rays = cameras.rays(index, cells.float() + 0.5)
    for number in range(50):
        whole = cameras.image_rays(int(index[number]))
        place = int(cells[number, 1]) * 40 + int(cells[number, 0])
        torch.testing.assert_close(rays.origins[number], whole.origins[place])
        torch.testing.assert_close(rays.directions[number], whole.directions[place])
        torch.testing.assert_close(rays.pixel_area[number], whole.pixel_area[place])


@pytest.mark.parametrize("kind", KINDS)
def test_projecting_a_point_on_a_ray_gives_its_pixel_back(kind):
    cameras = cameras_of(kind)
    index = torch.arange(3).repeat_interleave(100)
    pixels = torch.rand(300, 2, generator=torch.Generator().manual_seed(1)) * 40
    rays = cameras.rays(index, pixels)
    back, depth = cameras.project(index, rays.origins + 2.5 * rays.directions)
    torch.testing.assert_close(back, pixels, atol=1e-3, rtol=0)
    if kind != "equirectangular":
        assert bool((depth > 0).all())


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_of_a_large_picture_come_back_from_random_depths(kind):
    cameras = cameras_of(kind).rescaled(40)
    generator = torch.Generator().manual_seed(4)
    index = torch.randint(3, (2000,), generator=generator)
    pixels = torch.rand(2000, 2, generator=generator) * 1600
    rays = cameras.rays(index, pixels)
    far = 10 ** (torch.rand(2000, 1, generator=generator, dtype=torch.float64) * 4 - 1)
    if kind == "orthographic":
        # A direction's rounding, 6e-8, grows with distance and not the pixel: 2 units are what 1e-3 pixels allow.
        far = far.clamp(max=2.0)
    back, _ = cameras.project(index, rays.origins.double() + far * rays.directions.double())
    miss = (back - pixels).abs()
    if kind == "equirectangular":
        # Near the poles a direction says little about its longitude.
        miss[:, 0] *= rays.pixel_area.double() / rays.pixel_area.max()
    # Points and projection are exact here: what is left are the directions, six digits of 1600 pixels.
    assert float(miss.max()) < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_projecting_and_casting_give_the_direction_back(kind):
    cameras = cameras_of(kind)
    index = torch.arange(3).repeat_interleave(100)
    pixels = 2 + torch.rand(300, 2, generator=torch.Generator().manual_seed(5)) * 36
    rays = cameras.rays(index, pixels)
    again = cameras.rays(index, cameras.project(index, rays.origins + 3.0 * rays.directions)[0])
    torch.testing.assert_close(again.directions, rays.directions, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "orthographic"])
def test_pixel_area_is_the_product_of_neighbouring_directions_differences(kind):
    # A panorama's pixels are six times as wide.
    side = 160 if kind == "equirectangular" else 40
    cameras = cameras_of(kind, resolution=side)
    doubled = cameras.image_rays(0).directions.view(side, side, 3).double()
    across = (doubled[1:-1, 2:] - doubled[1:-1, :-2]).norm(dim=-1) / 2
    down = (doubled[2:, 1:-1] - doubled[:-2, 1:-1]).norm(dim=-1) / 2
    area = cameras.image_rays(0).pixel_area.view(side, side)[1:-1, 1:-1].double()
    # Central differences over a 40-pixel picture: second-order error, (1/40)^2.
    torch.testing.assert_close(area, across * down, rtol=2e-3, atol=0)


def test_a_fisheye_sees_behind_itself():
    cameras = one_camera(model="fisheye", focal=torch.tensor([[10.0, 10.0]]))
    # 20 pixels from the middle at 10 pixels a radian are 2 radians, behind the picture plane.
    ray = cameras.rays(torch.zeros(1, dtype=torch.int64), torch.tensor([[52.0, 24.0]]))
    expected = torch.tensor([2.0]).sin().item(), 0.0, -torch.tensor([2.0]).cos().item()
    torch.testing.assert_close(ray.directions[0], torch.tensor(expected))


def test_a_panorama_goes_once_around():
    cameras = one_camera(
        model="equirectangular",
        focal=torch.tensor([[64 / (2 * math.pi), 48 / math.pi]]),
    )
    pixels = torch.tensor([[32.0, 24.0], [48.0, 24.0], [16.0, 24.0], [0.0, 24.0], [32.0, 0.0], [32.0, 48.0]])
    ahead, right, left, behind, up, down = cameras.rays(torch.zeros(6, dtype=torch.int64), pixels).directions
    for came, expected in (
        (ahead, (0.0, 0.0, -1.0)),
        (right, (1.0, 0.0, 0.0)),
        (left, (-1.0, 0.0, 0.0)),
        (behind, (0.0, 0.0, 1.0)),
        (up, (0.0, 1.0, 0.0)),
        (down, (0.0, -1.0, 0.0)),
    ):
        torch.testing.assert_close(came, torch.tensor(expected), atol=1e-6, rtol=0)


def test_the_pixels_of_a_panorama_cover_the_sphere():
    cameras = cameras_of("equirectangular", resolution=64)
    assert float(cameras.image_rays(0).pixel_area.double().sum()) == pytest.approx(4 * math.pi, rel=1e-3)


def test_orthographic_rays_are_parallel_and_a_pixel_apart():
    cameras = one_camera(model="orthographic", focal=torch.tensor([[10.0, 5.0]]))
    pixels = torch.tensor([[32.0, 24.0], [42.0, 24.0], [32.0, 29.0]])
    rays = cameras.rays(torch.zeros(3, dtype=torch.int64), pixels)
    torch.testing.assert_close(rays.directions, torch.tensor([[0.0, 0.0, -1.0]]).repeat(3, 1))
    torch.testing.assert_close(rays.origins, torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]))
    torch.testing.assert_close(rays.pixel_area, torch.full((3,), 1 / 50))


@pytest.mark.parametrize(("model", "row"), CURVED.items())
def test_other_lenses_state_all_their_coefficients(model, row):
    with pytest.raises(InputError, match=f"distortion: expected {', '.join(COEFFICIENTS[model])} of each {model}"):
        one_camera(model=model)
    with pytest.raises(InputError, match="distortion: expected shape"):
        one_camera(model=model, distortion=torch.tensor([[*row, 0.0]]))


@pytest.mark.parametrize("model", ["equirectangular", "orthographic"])
def test_only_lenses_distort(model):
    with pytest.raises(InputError, match=f"distortion: expected None for {model} cameras"):
        one_camera(model=model, distortion=torch.zeros(1, 6))


def test_many_rays_are_made_in_chunks_without_seams():
    cameras = cameras_of("distorted", resolution=40)
    index = torch.zeros(70_001, dtype=torch.int64)
    pixels = torch.tensor([[7.5, 9.5]]).repeat(70_001, 1)
    directions = cameras.rays(index, pixels).directions
    assert bool((directions == directions[0]).all())


def test_rescaling_keeps_the_field_of_view():
    cameras = cameras_of("distorted")
    half = cameras.rescaled(0.5)
    assert (int(half.width[0]), int(half.height[0])) == (20, 20)
    corner = torch.zeros(1, dtype=torch.int64)
    full_ray = cameras.rays(corner, torch.tensor([[40.0, 0.0]]))
    half_ray = half.rays(corner, torch.tensor([[20.0, 0.0]]))
    torch.testing.assert_close(full_ray.directions, half_ray.directions)
    torch.testing.assert_close(half_ray.pixel_area, 4 * full_ray.pixel_area)


def test_rescaling_rounds_to_whole_pixels_and_never_to_none():
    tiny = one_camera().rescaled(0.001)
    assert (int(tiny.width[0]), int(tiny.height[0])) == (1, 1)
    with pytest.raises(InputError, match="factor"):
        one_camera().rescaled(0.0)


def test_cameras_are_picked_by_number_slice_and_mask():
    cameras = cameras_of("distorted")
    assert len(cameras[1]) == 1
    torch.testing.assert_close(cameras[-1].camera_to_world[0], cameras.camera_to_world[2])
    assert len(cameras[1:]) == 2
    assert len(cameras[torch.tensor([True, False, True])]) == 2
    assert cameras[1].distortion.shape == (1, 6)
    with pytest.raises(IndexError):
        cameras[3]


def test_iterating_ends():
    assert len(list(cameras_of("plain"))) == 3


def test_wrong_shapes_are_named():
    with pytest.raises(InputError, match=r"focal: expected shape \(1, 2\), got \(1, 3\)"):
        one_camera(focal=torch.ones(1, 3))
    for model, columns in (("perspective", 8), ("fisheye", 9)):
        with pytest.raises(InputError, match=rf"distortion: expected shape \(1, 6\), got \(1, {columns}\)"):
            one_camera(model=model, distortion=torch.zeros(1, columns))
    with pytest.raises(InputError, match="camera_index"):
        one_camera().rays(torch.zeros(2, dtype=torch.int64), torch.zeros(3, 2))
    with pytest.raises(InputError, match="index"):
        one_camera().image_rays(1)
    with pytest.raises(InputError, match="model"):
        one_camera(model="pinhole")


def test_no_rays_are_fine():
    rays = one_camera().rays(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2))
    assert len(rays) == 0


def test_rays_are_picked_by_slice_and_mask():
    rays = cameras_of("plain").image_rays(0)
    assert len(rays[10:20]) == 10
    assert len(rays[rays.pixel_area > 1e9]) == 0
    with pytest.raises(InputError, match="directions"):
        Rays(
            origins=torch.zeros(2, 3),
            directions=torch.zeros(3, 3),
            pixel_area=torch.zeros(2),
            camera_index=torch.zeros(2, dtype=torch.int64),
        )
