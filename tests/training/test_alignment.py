"""Cameras moved off by known amounts in front of a textured plane, whose colours and gradients are exact."""

import math
from dataclasses import replace

import pytest
import torch

from voxfield.errors import InputError
from voxfield.geometry.camera import Cameras
from voxfield.geometry.pose import SceneTransform
from voxfield.geometry.pose_refinement import PoseRefinement, PoseRefinementConfig
from voxfield.render.metrics import psnr
from voxfield.training.alignment import AlignmentConfig, PoseAligner
from voxfield.training.evaluate import EvaluateConfig, evaluate

SIDE, FOCAL = 96, 100.0
BACKGROUND = torch.ones(3)


class Plane:
    """A wall at z = -4 with hills in front of it for parallax, painted with waves of many lengths."""

    def __init__(self, unit=1.0):
        generator = torch.Generator().manual_seed(0)
        self.unit = unit
        # As many long waves as short ones, like photographs.
        self.waves = torch.randn(3, 24, 2, generator=generator) * torch.logspace(0, 1.2, 24)[:, None]
        self.phases = torch.rand(3, 24, generator=generator) * 2 * math.pi

    def distance(self, rays):
        near = 4.0 + 0.5 * torch.sin(3.0 * rays.directions[:, 0].detach()) + rays.origins[:, 2] / self.unit
        return -near * self.unit / rays.directions[:, 2]

    def __call__(self, rays, *, background):
        points = (rays.origins + self.distance(rays)[:, None] * rays.directions)[:, :2] / self.unit
        waves = torch.sin(points @ self.waves.reshape(-1, 2).T + self.phases.reshape(-1))
        return 0.5 + 0.09 * waves.reshape(-1, 3, 24).sum(2)

    def render_image(self, cameras, i, *, background):
        rays = cameras.image_rays(i)
        shape = int(cameras.height[i]), int(cameras.width[i])
        return {
            "rgb": self(rays, background=background).reshape(*shape, 3),
            "depth": self.distance(rays).reshape(shape),
            "opacity": torch.ones(shape),
        }


def camera(count=1, model="perspective"):
    return Cameras(
        camera_to_world=torch.eye(3, 4).expand(count, 3, 4).clone(),
        focal=torch.full((count, 2), FOCAL if model == "perspective" else 25.0),
        principal=torch.full((count, 2), SIDE / 2),
        width=torch.full((count,), SIDE),
        height=torch.full((count,), SIDE),
        model=model,
    )


def displaced(cameras, corrections):
    poses = PoseRefinement(len(cameras), PoseRefinementConfig())
    with torch.no_grad():
        poses.corrections.copy_(torch.tensor(corrections))
        return replace(cameras, camera_to_world=poses.apply_to_poses(cameras.camera_to_world))


def align(field, given, truth, *, mask=None, **options):
    seen = field.render_image(given, 0, background=BACKGROUND)
    aligner = PoseAligner(field, **options)
    return aligner.align(
        given, 0, truth, depth=seen["depth"], opacity=seen["opacity"], background=BACKGROUND, mask=mask
    )


def motion(field, one, other):
    """Median distance in pixels between where two cameras see the same points."""
    at = torch.rand(200, 2, generator=torch.Generator().manual_seed(2)) * SIDE
    first = torch.zeros(200, dtype=torch.int64)
    rays = one.rays(first, at)
    points = rays.origins + field.distance(rays)[:, None] * rays.directions
    return float((other.project(first, points)[0] - at).norm(dim=1).median())


# A wall tells a turn from a step aside only by its perspective: where the picture went is what can be found.
@pytest.mark.parametrize(("manifold", "unit"), [("SO3xR3", 1.0), ("SE3", 1000.0)])
def test_a_displaced_camera_finds_back(manifold, unit):
    field, true = Plane(unit), camera()
    truth = field.render_image(true, 0, background=BACKGROUND)["rgb"]
    moves = (0.03 * unit, -0.02 * unit, 0.05 * unit, 0.012, 0.02, -0.02)
    given = displaced(true, [moves])
    found = align(field, given, truth, settings=AlignmentConfig(manifold=manifold))
    assert found.moved
    before = psnr(field.render_image(given, 0, background=BACKGROUND)["rgb"], truth).item()
    after = psnr(field.render_image(found.camera, 0, background=BACKGROUND)["rgb"], truth).item()
    assert before < 24
    assert after > before + 10
    there = motion(field, true, given)
    assert there > 1.0
    assert motion(field, true, found.camera) < 0.2
    assert found.pixels == pytest.approx(there, rel=0.25)


def test_the_gradient_with_respect_to_the_pose_is_that_of_finite_differences():
    field, true = Plane(), camera()
    at = torch.rand(50, 2, generator=torch.Generator().manual_seed(1)) * SIDE
    rays = true.rays(torch.zeros(50, dtype=torch.int64), at)
    rays = replace(rays, **{name: getattr(rays, name).double() for name in ("origins", "directions", "pixel_area")})
    field.waves, field.phases = field.waves.double(), field.phases.double()
    poses = PoseRefinement(1)

    def loss(corrections):
        moved = torch.func.functional_call(poses, {"corrections": corrections}, (rays,))
        return field(moved, background=BACKGROUND).square().sum()

    # The hills' height is taken as fixed along a ray, in the gradient as in a field's samples: without them.
    field.distance = lambda rays: -(4.0 + rays.origins[:, 2]) / rays.directions[:, 2]
    start = torch.tensor([[0.02, -0.01, 0.03, 0.01, 0.02, -0.03]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, start)


def test_a_camera_that_stands_right_stays():
    field, true = Plane(), camera()
    truth = field.render_image(true, 0, background=BACKGROUND)["rgb"]
    found = align(field, true, truth)
    assert found.pixels < 0.05
    assert found.degrees < 0.02
    nowhere = align(field, true, torch.full((SIDE, SIDE, 3), 0.5), settings=AlignmentConfig(steps=3, first_step=0.01))
    assert nowhere.pixels < 0.2


def test_another_exposure_does_not_pull_the_camera():
    field, true = Plane(), camera()
    truth = 0.6 * field.render_image(true, 0, background=BACKGROUND)["rgb"] + 0.05
    assert align(field, true, truth).pixels < 0.1
    found = align(field, displaced(true, [(0, 0, 0, 0, 0.02, 0)]), truth)
    assert motion(field, true, found.camera) < 0.2


def test_the_drift_of_the_training_cameras_comes_first():
    field, true = Plane(), camera()
    truth = field.render_image(true, 0, background=BACKGROUND)["rgb"]
    # Too far for the gradient: the whole world was shifted by a quarter of the picture.
    shift = torch.tensor([1.0, 0.0, 0.0])
    given = displaced(true, [(-1.0, 0, 0, 0, 0, 0)])
    drift = SceneTransform.from_parts(torch.eye(3), 1.0, shift)
    found = align(field, given, truth, drift=drift, settings=AlignmentConfig(steps=20))
    assert found.distance == pytest.approx(1.0, abs=0.05)
    assert psnr(field.render_image(found.camera, 0, background=BACKGROUND)["rgb"], truth) > 25


def test_only_every_other_tile_is_looked_at():
    field, true = Plane(), camera()
    truth = field.render_image(true, 0, background=BACKGROUND)["rgb"]
    given = displaced(true, [(0, 0, 0, 0, 0.02, 0)])
    found = align(field, given, truth)
    assert 0.4 < found.unseen.float().mean() < 0.6
    spoilt = torch.where(found.unseen[..., None], torch.rand(SIDE, SIDE, 3), truth)
    # Only the blur of the first steps reaches over the edges of tiles.
    assert motion(field, true, align(field, given, spoilt).camera) < 0.3


def test_a_mask_hides_pixels_from_the_alignment():
    field, true = Plane(), camera()
    truth = field.render_image(true, 0, background=BACKGROUND)["rgb"]
    truth[:, :48] = 0.0
    mask = torch.ones(SIDE, SIDE, dtype=torch.bool)
    mask[:, :48] = False
    found = align(field, displaced(true, [(0, 0, 0, 0.015, 0, 0)]), truth, mask=mask)
    assert found.pixels == pytest.approx(1.5, rel=0.2)
    assert not bool(found.unseen[:, :48].any())
    assert align(field, true, truth, mask=torch.zeros_like(mask)) is None


def test_a_field_that_no_ray_meets_leaves_the_camera():
    class Empty(Plane):
        def __call__(self, rays, *, background):
            return background.expand(len(rays), 3)

    found = align(Empty(), camera(), torch.full((SIDE, SIDE, 3), 0.5))
    assert not found.moved
    assert (found.degrees, found.distance, found.pixels) == (0.0, 0.0, 0.0)


def test_a_field_of_nan_leaves_the_camera():
    class Broken(Plane):
        def __call__(self, rays, *, background):
            return super().__call__(rays, background=background) * math.nan

    assert not align(Broken(), camera(), torch.rand(SIDE, SIDE, 3)).moved


def test_orthographic_cameras():
    field, true = Plane(), camera(model="orthographic")
    truth = field.render_image(true, 0, background=BACKGROUND)["rgb"]
    given = displaced(true, [(0.08, -0.04, 0, 0, 0, 0)])
    assert motion(field, true, given) > 2.0
    assert motion(field, true, align(field, given, truth).camera) < 0.2


def test_parameters_are_frozen_only_meanwhile():
    field, true = Plane(), camera()
    weight = torch.nn.Parameter(torch.ones(()))
    fixed = torch.nn.Parameter(torch.ones(()), requires_grad=False)
    asked = []

    def colours(rays, *, background):
        asked.append(weight.requires_grad)
        return field(rays, background=background) * weight * fixed

    seen = field.render_image(true, 0, background=BACKGROUND)
    aligner = PoseAligner(colours, parameters=[weight, fixed], settings=AlignmentConfig(steps=2))
    aligner.align(true, 0, seen["rgb"], depth=seen["depth"], opacity=seen["opacity"], background=BACKGROUND)
    assert not any(asked)
    assert (weight.requires_grad, fixed.requires_grad, weight.grad) == (True, False, None)


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"steps": 0}, "steps"),
        ({"rays": 0}, "rays"),
        ({"first_step": 0.0}, "first_step"),
        ({"last_step": 1.0}, "last_step"),
        ({"manifold": "SO2"}, "manifold"),
    ],
)
def test_settings_are_checked(bad, named):
    with pytest.raises(InputError, match=named):
        AlignmentConfig(**bad)


# ------------------------------------------------------------------------------------------- in an evaluation


class Photographs:
    has_masks, split, skipped, tone, faulty_pixels, scales = False, "test", (), None, (), None
    source = {"format": "fake", "path": "plane", "downscale": 1}  # noqa: RUF012  (a stand-in)

    def __init__(self, cameras, pictures):
        self.cameras, self.images = cameras, self
        self.names = tuple(f"p{i}.png" for i in range(len(pictures)))
        self._pictures = [(picture.clamp(0, 1) * 255).round().byte() for picture in pictures]

    def read(self, index):
        return self._pictures[index]


def test_an_evaluation_tells_what_is_wrong_with_each_picture(tmp_path):
    from voxfield.render.focus import blurred

    field, true = Plane(), camera(9)
    clean = field.render_image(true, 0, background=BACKGROUND)["rgb"].clamp(0, 1)
    occluded = clean.clone()
    occluded[20:70, 30:60] = torch.tensor([0.9, 0.1, 0.1])
    pictures = [*[clean] * 5, blurred(clean, 3.0), 0.6 * clean, occluded, clean]
    grain = 0.03 * torch.randn(9, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(0))
    given = displaced(true, [(0.0,) * 6] * 8 + [(0, 0, 0, 0.01, 0.02, 0)])
    result = evaluate(
        field.render_image,
        Photographs(given, [picture + grain[i] for i, picture in enumerate(pictures)]),
        output=tmp_path,
        settings=EvaluateConfig(align_poses=True),
        aligner=PoseAligner(field, settings=AlignmentConfig(steps=60)),
    )
    images = result["per_image"]
    assert [item["focus"]["verdict"] for item in images] == [
        *["sharp and aligned"] * 5, "photograph blurred", "exposure differs", "outlier (content)", "misaligned",
    ]  # fmt: skip
    assert "p7.png" in [item["name"] for item in result["outliers"]]
    last = images[8]
    assert last["psnr_aligned"] > last["psnr"] + 5
    assert last["psnr_aligned"] == pytest.approx(images[0]["psnr"], abs=1.0), "restored"
    assert last["alignment"]["psnr_unseen_aligned"] > last["alignment"]["psnr_unseen"] + 5
    assert last["alignment"]["pixels"] == pytest.approx(100 * math.hypot(0.01, 0.02), rel=0.2)
    assert result["psnr_aligned"] > result["psnr"]
    assert result["protocol"]["alignment"]["steps"] == 60
    assert (tmp_path / last["picture_aligned"]).is_file()
    plain = evaluate(
        field.render_image, Photographs(given, [picture + grain[i] for i, picture in enumerate(pictures)]),
        output=tmp_path / "plain",
    )  # fmt: skip
    assert plain["psnr"] == result["psnr"], "alignment never touches the plain metric"
    assert plain["per_image"][8]["focus"]["verdict"] == "misaligned", "seen from the shift alone"
