import math

import pytest
import torch

from voxfield.data.shape_batches import ShapeRayBatch
from voxfield.errors import InputError
from voxfield.kernels.traverse_voxels import traverse_voxels
from voxfield.kernels.voxel_words import pack_voxels
from voxfield.models.raynet import Raynet, RaynetConfig, _through_cube

SMALL = RaynetConfig(features=8, layers=1, width=16, intervals=16, stride=2)


def batch_of(blocks: int = 2, rays: int = 60, side: int = 8, seed: int = 0) -> ShapeRayBatch:
    """Blocks whose voxels are set below a slanted plane, with rays from all sides."""
    generator = torch.Generator().manual_seed(seed)
    z, y, x = torch.meshgrid(*(torch.arange(side) + 0.5 - side / 2,) * 3, indexing="ij")
    normals = torch.nn.functional.normalize(torch.randn(blocks, 3, generator=generator), dim=1)
    voxels = torch.stack([(a * x + b * y + c * z < 0).float()[None] for a, b, c in normals.tolist()])
    directions = torch.nn.functional.normalize(torch.randn(blocks, rays, 3, generator=generator), dim=-1)
    origins = (torch.rand(blocks, rays, 3, generator=generator) - 0.5) * side * 0.9 - directions * 2 * side
    near, _ = _through_cube(origins / (side / 2), directions)
    origins = origins + near[..., None] * side / 2 * directions
    chord, depth = torch.zeros(blocks, rays), torch.zeros(blocks, rays)
    for block in range(blocks):
        words = pack_voxels(voxels[block, 0] > 0.5)
        met = traverse_voxels(origins[block].double() + side / 2, directions[block].double(), words, side)
        chord[block], depth[block] = met.chord, met.distance
    return ShapeRayBatch(voxels=voxels, origins=origins, directions=directions, chord=chord, depth=depth)


def test_predictions_are_within_their_ranges():
    batch = batch_of()
    said = Raynet(SMALL, 8, seed=0)(batch.voxels, batch.origins, batch.directions)
    assert said.hit.shape == said.depth.shape == said.chord.shape == (2, 60)
    assert ((said.hit >= 0) & (said.hit <= 1)).all()
    assert ((said.chord >= 0) & (said.chord <= 8 * math.sqrt(3))).all()
    assert ((said.depth >= 0) & (said.depth <= 8 * math.sqrt(3) + 1e-3)).all()


def test_rays_that_miss_the_block_meet_nothing():
    model, batch = Raynet(SMALL, 8, seed=0), batch_of(blocks=1, rays=3)
    said = model(
        batch.voxels,
        torch.tensor([[[-20.0, 9.0, 0.0], [20.0, 0.0, 0.0], [0.0, 0.0, 4.5]]]),
        torch.eye(3)[:1].expand(1, 3, 3),
    )
    assert torch.equal(said.hit, torch.zeros(1, 3))
    assert torch.equal(said.chord, torch.zeros(1, 3))


def test_parts_are_the_whole():
    model, batch = Raynet(SMALL, 8, seed=0), batch_of()
    whole = model(batch.voxels, batch.origins, batch.directions)
    parts = list(model.in_parts(batch.origins, batch.directions, model.encode(batch.voxels), 25))
    assert len(parts) == 3
    for name in ("hit", "depth", "chord"):
        assert torch.allclose(torch.cat([getattr(part, name) for part in parts], 1), getattr(whole, name), atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_it_learns(stride):
    model = Raynet(RaynetConfig(features=16, layers=1, width=32, intervals=16, stride=stride), 8, seed=1)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for step in range(40):
        batch = batch_of(blocks=4, rays=100, seed=step % 8)
        result = model.training_step(batch, step, torch.Generator())
        optimiser.zero_grad()
        result.loss.backward()
        optimiser.step()
        losses.append(float(result.loss.detach()))
    assert all(parameter.grad is not None and torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    assert losses[-1] < 0.7 * losses[0]
    assert result.counted_in == "rays"
    assert result.num_examples == 400
    assert set(result.measures) == {"hit_accuracy", "depth_mae", "chord_mae"}


def test_seeds_decide_and_the_callers_random_numbers_stay():
    state = torch.get_rng_state()
    one, same, other = (Raynet(SMALL, 8, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.look.weight, same.look.weight)
    assert not torch.equal(one.look.weight, other.look.weight)


@pytest.mark.parametrize("options", [{"stride": 3}, {"features": 0}, {"intervals": 0}, {"chord_weight": -1.0}])
def test_bad_settings(options):
    with pytest.raises(InputError):
        RaynetConfig(**options)


def test_blocks_that_the_stride_does_not_divide():
    with pytest.raises(InputError, match=r"model\.stride: 4 does not divide blocks of 6"):
        Raynet(RaynetConfig(stride=4), 6, seed=0)
