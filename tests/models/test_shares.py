"""Shares of batches make up the batch, and the mean of their losses and gradients is the whole batch's."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from voxfield.data.capture import DepthOptions
from voxfield.data.depth_targets import _PointDepths
from voxfield.data.ray_batches import RayBatch, RaySampler
from voxfield.data.shape_batches import ShapeRayBatch
from voxfield.data.sparse_points import ObservedPoints
from voxfield.data.synthetic import posed_images
from voxfield.data.volume_batches import ProceduralShapes, VolumeBatch, VolumeSampler
from voxfield.distributed.ranks import ALONE, Ranks
from voxfield.models.raynet import Raynet, RaynetConfig

SIZE = 2


@dataclass(frozen=True, kw_only=True)
class Simulated(Ranks):
    """One of several ranks in one process: what all of them would say of a mean is looked up."""

    size: int = SIZE
    told: list[torch.Tensor] = field(default_factory=list)

    def mean(self, number: torch.Tensor) -> torch.Tensor:
        return torch.stack(self.told).sum(0) / self.size if self.told else number


def joined(parts: Sequence[Any], name: str) -> torch.Tensor:
    return torch.cat([getattr(part, name) for part in parts])


def test_shares_of_rays_make_up_the_batch() -> None:
    sampler = RaySampler(posed_images(count=3, resolution=16), 5)
    whole = sampler.sample(64, 7)
    parts = [sampler.sample(64, 7, Ranks(rank=rank, size=SIZE)) for rank in range(SIZE)]
    assert torch.equal(joined(parts, "pixels"), whole.pixels)
    assert torch.equal(joined(parts, "rgba"), whole.rgba)
    assert torch.equal(torch.cat([part.rays.directions for part in parts]), whole.rays.directions)
    assert [part.ranks.rank for part in parts] == [0, 1]
    assert whole.ranks == ALONE


def test_shares_of_weighted_rays_have_the_whole_batch_s_mean() -> None:
    weights, errors = torch.tensor([1.0, 4.0, 16.0, 1.0]), torch.rand(4, 3)
    rays = RaySampler(posed_images(count=1, resolution=8), 0).sample(4, 0).rays
    whole = RayBatch(rays=rays, pixels=torch.zeros(4, 2), rgba=torch.ones(4, 4), weights=weights)
    sums = [weights[:2].sum(), weights[2:].sum()]
    means = []
    for rank in range(SIZE):
        part = slice(2 * rank, 2 * rank + 2)
        batch = RayBatch(
            rays=rays[part],
            pixels=torch.zeros(2, 2),
            rgba=torch.ones(2, 4),
            weights=weights[part],
            ranks=Simulated(rank=rank, told=sums),
        )
        means.append(batch.mean(errors[part]))
    assert float(sum(means) / SIZE) == pytest.approx(float(whole.mean(errors)))


def test_shares_of_sparse_points_make_up_the_batch_s() -> None:
    scene = posed_images(count=2, resolution=16)
    seen = ObservedPoints(pixels=torch.rand(9, 2) * 16, depth=torch.rand(9) + 1, errors=torch.rand(9))
    depths = _PointDepths(scene.image_cameras, (seen, seen), share=DepthOptions().point_rays, device="cpu")
    sampler = RaySampler(scene, 0)

    def targets(batch: RayBatch) -> torch.Tensor:
        return depths.targets(batch, torch.Generator().manual_seed(3)).distances

    parts = [targets(sampler.sample(64, 7, Ranks(rank=rank, size=SIZE))) for rank in range(SIZE)]
    assert torch.equal(torch.cat(parts), targets(sampler.sample(64, 7)))


def test_shares_of_volumes_make_up_the_batch() -> None:
    sampler = VolumeSampler(ProceduralShapes(6, 8), range(6), seed=0, augment=True, device=torch.device("cpu"))
    for step in range(3):
        parts: list[VolumeBatch] = [sampler.sample(4, step, Ranks(rank=rank, size=SIZE)) for rank in range(SIZE)]
        whole = sampler.sample(4, step)
        assert torch.equal(joined(parts, "volumes"), whole.volumes)
        assert torch.equal(joined(parts, "labels"), whole.labels)


def shape_batch(blocks: slice, ranks: Ranks) -> ShapeRayBatch:
    """Of four blocks of 4 voxels with 6 rays each, of which very different numbers hit."""
    generator = torch.Generator().manual_seed(0)
    depth = torch.rand(4, 6, generator=generator) * 3
    depth[0, 1:] = depth[1, 2:] = torch.inf
    directions = torch.nn.functional.normalize(torch.randn(4, 6, 3, generator=generator), dim=-1)
    return ShapeRayBatch(
        voxels=(torch.rand(4, 1, 4, 4, 4, generator=generator) < 0.5).float()[blocks],
        origins=-3 * directions[blocks],
        directions=directions[blocks],
        chord=torch.rand(4, 6, generator=generator)[blocks],
        depth=depth[blocks],
        ranks=ranks,
    )


def test_gradients_of_shares_of_shape_rays_average_to_the_whole_batch_s() -> None:
    model = Raynet(RaynetConfig(features=4, layers=1, width=8, intervals=4), 4, 0)
    generator = torch.Generator()

    def gradient(batches: Sequence[ShapeRayBatch]) -> torch.Tensor:
        model.zero_grad()
        for batch in batches:
            (model.training_step(batch, 0, generator).loss / len(batches)).backward()
        return torch.cat([parameter.grad.view(-1) for parameter in model.parameters() if parameter.grad is not None])

    halves = [slice(0, 2), slice(2, 4)]
    hits = [shape_batch(half, ALONE).hit.sum() for half in halves]
    parts = [shape_batch(half, Simulated(rank=rank, told=hits)) for rank, half in enumerate(halves)]
    whole = gradient([shape_batch(slice(0, 4), ALONE)])
    torch.testing.assert_close(gradient(parts), whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("classes", [0, 2])
def test_a_diffusion_s_shares_draw_the_whole_batch_s_noise(classes: int) -> None:
    monai = pytest.importorskip("monai")
    assert monai is not None
    from voxfield.models.diffusion import DiffusionConfig, VoxelDiffusion

    config = DiffusionConfig(
        channels=(8, 8), attention=(False, False), head_channels=8, patch=1, volume_shape=(4, 4, 4), classes=classes
    )
    model = VoxelDiffusion(config, seed=0)
    volumes, labels = torch.rand(4, 1, 4, 4, 4), torch.tensor([0, 1, 0, 1])

    def loss(part: slice, ranks: Ranks) -> float:
        batch = VolumeBatch(volumes=volumes[part], labels=labels[part], ranks=ranks)
        return float(model.training_step(batch, 0, torch.Generator().manual_seed(4)).loss.detach())

    parts = [loss(slice(2 * rank, 2 * rank + 2), Ranks(rank=rank, size=SIZE)) for rank in range(SIZE)]
    assert sum(parts) / SIZE == pytest.approx(loss(slice(0, 4), ALONE), rel=1e-5)
