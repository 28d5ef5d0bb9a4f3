import pytest
import torch
from scipy.linalg import expm
from scipy.spatial.transform import Rotation

from voxfield.errors import InputError
from voxfield.geometry.pose_refinement import PoseRefinement, PoseRefinementConfig, rigid_translation, rotate
from voxfield.geometry.rays import Rays

MANIFOLDS = ["SO3xR3", "SE3"]


def random_rays(count: int, cameras: int, dtype=torch.float64) -> Rays:
    generator = torch.Generator().manual_seed(count)
    return Rays(
        origins=torch.randn(count, 3, generator=generator, dtype=dtype),
        directions=torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, dtype=dtype), dim=1),
        pixel_area=torch.rand(count, generator=generator, dtype=dtype),
        camera_index=torch.randint(cameras, (count,), generator=generator),
    )


def random_vectors(angles: list[float], seed: int) -> torch.Tensor:
    """Vectors of the given lengths in random directions."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(len(angles), 3, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(directions, dim=1) * torch.tensor(angles, dtype=torch.float64)[:, None]


def refinement(manifold: str, cameras: int = 5, scale: float = 0.3) -> PoseRefinement:
    module = PoseRefinement(cameras, PoseRefinementConfig(manifold=manifold)).double()
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        module.corrections.copy_(scale * torch.randn(cameras, 6, generator=generator, dtype=torch.float64))
    return module


ANGLES = [0.0, 1e-12, 1e-6, 1e-3, 0.0999, 0.1, 0.1001, 1.0, 3.0, 3.14159, 6.0, 20.0]


def test_rotate_agrees_with_scipy():
    axis_angles, vectors = random_vectors(ANGLES, 1), random_vectors([1.0] * len(ANGLES), 2)
    theirs = Rotation.from_rotvec(axis_angles.numpy()).apply(vectors.numpy())
    torch.testing.assert_close(rotate(vectors, axis_angles), torch.from_numpy(theirs), rtol=0, atol=1e-12)


def test_rigid_translation_agrees_with_the_matrix_exponential():
    axis_angles, translations = random_vectors(ANGLES[:-1], 3), random_vectors([2.0] * len(ANGLES[:-1]), 4)
    for r, v, ours in zip(axis_angles, translations, rigid_translation(translations, axis_angles), strict=True):
        x, y, z = r.tolist()
        tangent = torch.zeros(4, 4, dtype=torch.float64)
        tangent[:3, :3] = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
        tangent[:3, 3] = v
        torch.testing.assert_close(ours, torch.from_numpy(expm(tangent.numpy())[:3, 3]), rtol=0, atol=1e-11)


def test_lengths_and_inverses():
    axis_angles, vectors = random_vectors(ANGLES, 5), random_vectors([1.0] * len(ANGLES), 6)
    turned = rotate(vectors, axis_angles)
    torch.testing.assert_close(turned.norm(dim=1), torch.ones(len(ANGLES), dtype=torch.float64))
    torch.testing.assert_close(rotate(turned, -axis_angles), vectors, rtol=0, atol=1e-12)
    in_float32 = rotate(vectors.float(), axis_angles.float())
    torch.testing.assert_close(in_float32.double(), turned, rtol=0, atol=3e-6)  # 20 radians are rounded to 1e-6


@pytest.mark.parametrize("function", [rotate, rigid_translation])
def test_gradient_by_finite_differences_at_every_angle(function):
    axis_angles, vectors = random_vectors(ANGLES, 7), random_vectors([1.0] * len(ANGLES), 8)
    assert torch.autograd.gradcheck(function, (vectors.requires_grad_(), axis_angles.requires_grad_()))


@pytest.mark.parametrize("manifold", MANIFOLDS)
def test_no_correction_changes_nothing(manifold):
    rays = random_rays(20, 5, torch.float32)
    module = PoseRefinement(5, PoseRefinementConfig(manifold=manifold))
    refined = module(rays)
    assert torch.equal(refined.origins, rays.origins)
    assert torch.equal(refined.directions, rays.directions)
    assert torch.equal(refined.pixel_area, rays.pixel_area)
    assert torch.equal(refined.camera_index, rays.camera_index)
    (refined.origins.sum() + refined.directions[:, 0].sum()).backward()
    assert module.corrections.grad.isfinite().all()
    assert module.corrections.grad[:, 3:].abs().max() > 0


@pytest.mark.parametrize("manifold", MANIFOLDS)
def test_gradient_to_the_corrections(manifold):
    rays, module = random_rays(11, 5), refinement(manifold)

    def cast(corrections):
        refined = torch.func.functional_call(module, {"corrections": corrections}, (rays,))
        return refined.origins, refined.directions

    assert torch.autograd.gradcheck(cast, module.corrections)
    assert torch.autograd.gradcheck(cast, torch.zeros(5, 6, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("manifold", MANIFOLDS)
def test_poses_and_rays_are_corrected_alike(manifold):
    module = refinement(manifold)
    poses = torch.cat(
        [torch.from_numpy(Rotation.random(5, random_state=1).as_matrix()), torch.rand(5, 3, 1).double()], dim=2
    )
    camera = torch.tensor([4, 0, 2, 2])
    local = random_vectors([1.0] * 4, 10)
    rays = Rays(
        origins=poses[camera, :, 3],
        directions=(poses[camera, :, :3] @ local[:, :, None])[:, :, 0],
        pixel_area=torch.ones(4),
        camera_index=camera,
    )
    refined, moved = module(rays), module.apply_to_poses(poses)
    torch.testing.assert_close(refined.origins, moved[camera, :, 3])
    torch.testing.assert_close(refined.directions, (moved[camera, :, :3] @ local[:, :, None])[:, :, 0])


def test_penalty_is_the_weighted_mean_length():
    module = PoseRefinement(2)
    module.penalty().backward()
    assert module.corrections.grad.eq(0).all()
    with torch.no_grad():
        module.corrections.copy_(torch.tensor([[3.0, 4, 0, 0, 0, 0], [0, 0, 0, 0, 0, 2.0]]))
    assert float(module.penalty().detach()) == pytest.approx(1e-2 * 2.5 + 1e-3 * 1.0)


def test_a_wrong_pose_is_found():
    """Rays that should all meet a point are turned and moved until they do."""
    module, rays = PoseRefinement(3), random_rays(90, 3, torch.float32)
    target = rays.origins + 2 * rotate(rays.directions, torch.tensor([[0.02, -0.03, 0.01]]).expand(90, 3)) + 0.05
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-2)
    for _ in range(150):
        refined = module(rays)
        loss = (refined.origins + 2 * refined.directions - target).square().sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 1e-6
    expected = torch.tensor([0.05, 0.05, 0.05, 0.02, -0.03, 0.01]).expand(3, 6)
    torch.testing.assert_close(module.corrections.detach(), expected, rtol=0, atol=3e-3)


def test_no_rays():
    refined = PoseRefinement(2)(random_rays(0, 2, torch.float32))
    assert len(refined) == 0


def test_errors_teach():
    with pytest.raises(InputError, match="manifold: unknown value 'SE2'"):
        PoseRefinementConfig(manifold="SE2")
    with pytest.raises(InputError, match="rotation_penalty: expected a value at least 0"):
        PoseRefinementConfig(rotation_penalty=-1.0)
    with pytest.raises(InputError, match="num_cameras: expected a value at least 1, got 0"):
        PoseRefinement(0)
    with pytest.raises(InputError, match=r"camera_to_world: expected shape \(2, 3, 4\), got \(3, 3, 4\)"):
        PoseRefinement(2).apply_to_poses(torch.zeros(3, 3, 4))
    with pytest.raises(InputError, match=r"axis_angles: expected shape \(2, 3\), got \(1, 3\)"):
        rotate(torch.zeros(2, 3), torch.zeros(1, 3))
    with pytest.raises(IndexError):
        PoseRefinement(1)(random_rays(9, 5, torch.float32))
