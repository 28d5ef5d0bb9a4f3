import math

import numpy as np
import pytest
import torch

from voxfield.errors import InputError
from voxfield.kernels.pdf_resample import pdf_resample
from voxfield.render.ray_samplers import (
    ProposalSchedule,
    RaySpacing,
    anneal_weights,
    annealing_exponent,
    even_edges,
)


def jitter(rays: int, columns: int) -> torch.Tensor:
    return torch.rand(rays, columns, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("kind", ["uniform", "piecewise"])
@pytest.mark.parametrize(("near", "far"), [(0.05, 1000.0), (0.0, 0.5), (2.0, 6.0), (1.0, 1.5)])
def test_spacing_and_distance_are_inverse(kind, near, far):
    spacing = RaySpacing(near=near, far=far, kind=kind)
    s = torch.linspace(0, 1, 101, dtype=torch.float64)[None]
    t = spacing.to_distance(s)
    assert float(t[0, 0]) == pytest.approx(near, abs=1e-12)
    assert float(t[0, -1]) == pytest.approx(far, rel=1e-12)
    assert (t.diff(dim=1) > 0).all()
    torch.testing.assert_close(spacing.to_spacing(t), s, rtol=0, atol=1e-12)


def test_piecewise_spacing_is_even_up_to_1_and_even_in_disparity_beyond():
    t = RaySpacing(near=0.0, far=1e9).to_distance(torch.linspace(0, 1, 9, dtype=torch.float64)[None])[0]
    torch.testing.assert_close(t[:5], torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64))
    torch.testing.assert_close(1 / t[4:], torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]).double(), rtol=1e-7, atol=1e-8)


def test_half_of_the_samples_lie_within_distance_1():
    t = RaySpacing(near=0.05, far=1000.0).to_distance(even_edges(1, 256))
    assert 0.45 < float((t < 1).float().mean()) < 0.51


def test_distances_stay_between_near_and_far_in_float32():
    t = RaySpacing(near=0.05, far=1000.0).to_distance(even_edges(3, 1001))
    assert t.dtype == torch.float32
    assert float(t.min()) == pytest.approx(0.05)
    assert float(t.max()) <= 1000.0
    assert (t.diff(dim=1) >= 0).all()


def test_every_ray_may_have_its_own_ends():
    near, far = torch.tensor([0.5, 2.0]), torch.tensor([1.0, 8.0])
    spacing = RaySpacing(near=near, far=far, kind="uniform")
    t = spacing.to_distance(even_edges(2, 2))
    torch.testing.assert_close(t, torch.tensor([[0.5, 0.75, 1.0], [2.0, 5.0, 8.0]]))
    torch.testing.assert_close(spacing.to_spacing(t), even_edges(2, 2))
    with pytest.raises(InputError, match=r"near: expected shape \(3\), got \(2,\)"):
        spacing.to_distance(even_edges(3, 2))


def test_even_edges_without_jitter():
    edges = even_edges(3, 4)
    assert edges.tolist() == [[0.0, 0.25, 0.5, 0.75, 1.0]] * 3
    assert even_edges(0, 4, dtype=torch.float64).shape == (0, 5)


@pytest.mark.parametrize("columns", [1, 9])
def test_jitter_moves_each_edge_within_half_an_interval(columns):
    edges = even_edges(50, 8, jitter=jitter(50, columns))
    assert edges.shape == (50, 9)
    assert (edges.diff(dim=1) >= 0).all()
    assert edges.min() >= 0
    assert edges.max() <= 1
    strayed = (edges - even_edges(50, 8)).abs()
    assert strayed.max() <= 1 / 16 + 1e-6
    assert strayed[:, 1:-1].max() > 1 / 20
    same_shift = edges[:, 1:-1].diff(dim=1)
    if columns == 1:  # the ray's edges move together
        torch.testing.assert_close(same_shift, torch.full_like(same_shift, 1 / 8))


def test_resampled_edges_become_distances():
    spacing = RaySpacing(near=0.05, far=1000.0)
    edges = even_edges(4, 32, jitter=jitter(4, 1))
    weights = torch.zeros(4, 32)
    weights[:, 10] = 1.0
    new = pdf_resample(edges, weights, 16, jitter=jitter(4, 1), padding=0.0)
    t = spacing.to_distance(new)
    bounds = spacing.to_distance(edges)[:, 10:12]
    assert (t >= bounds[:, :1] - 1e-6).all()
    assert (t <= bounds[:, 1:] + 1e-6).all()


def test_annealing_rises_from_0_to_1_quickly_at_first():
    assert annealing_exponent(0) == 0.0
    assert annealing_exponent(100) == pytest.approx(0.526, abs=5e-4)
    assert annealing_exponent(500) == pytest.approx(0.909, abs=5e-4)
    assert annealing_exponent(1000) == annealing_exponent(50_000) == 1.0
    assert annealing_exponent(0, steps=0) == 1.0
    values = [annealing_exponent(step) for step in range(0, 1001, 50)]
    assert values == sorted(values)


def test_annealed_weights_are_constants():
    weights = torch.tensor([[0.0, 0.25, 1.0]], requires_grad=True)
    assert anneal_weights(weights, 0.0).tolist() == [[1.0, 1.0, 1.0]]
    assert anneal_weights(weights, 0.5).tolist() == [[0.0, 0.5, 1.0]]
    assert torch.equal(anneal_weights(weights, 1.0), weights)
    assert not anneal_weights(weights, 0.5).requires_grad
    assert not anneal_weights(weights, 1.0).requires_grad


@pytest.mark.parametrize("schedule", [ProposalSchedule(), ProposalSchedule(always=1, warmup=300, every=7)], ids=str)
def test_proposal_updates_follow_the_rule(schedule):
    last = -1
    for step in range(7000):
        pace = np.clip(np.interp(step, [0, schedule.warmup], [0, schedule.every]), 1, schedule.every)
        due = step < schedule.always or step - last > pace
        assert schedule.updates_at(step) == due, step
        last = step if due else last


def test_proposal_updates_become_rare():
    schedule = ProposalSchedule()
    assert all(schedule.updates_at(step) for step in range(10))
    assert sum(schedule.updates_at(step) for step in range(10, 1010)) == 500
    assert sum(schedule.updates_at(step) for step in range(60_000, 66_000)) == 1000
    assert all(ProposalSchedule(always=1, warmup=0, every=1).updates_at(step) == (step % 2 == 0) for step in range(9))


def test_errors_teach():
    cases = [
        (lambda: RaySpacing(near=2.0, far=2.0), "far: expected a value above 2"),
        (lambda: RaySpacing(near=-1.0, far=2.0), "near: expected a finite distance of at least 0, got -1.0"),
        (lambda: RaySpacing(near=0.0, far=math.inf), "far: expected a finite distance of at least 0, got inf"),
        (lambda: RaySpacing(near=0.0, far=1.0, kind="piecwise"), "Did you mean piecewise"),
        (lambda: RaySpacing(near=0.0, far=1.0).to_distance(torch.zeros(3)), r"spacing: expected shape \(R, K\)"),
        (lambda: even_edges(2, 0), "num_samples: expected a value at least 1"),
        (lambda: even_edges(2, 4, jitter=torch.zeros(2, 4)), r"jitter: expected shape \(2, 1\) or \(2, 5\)"),
        (lambda: annealing_exponent(-1), "step: expected a value at least 0"),
        (lambda: anneal_weights(torch.zeros(1, 2), 2.0), "exponent: expected a value at least 0 and at most 1"),
        (lambda: ProposalSchedule(every=0), "every: expected a value at least 1"),
    ]
    for call, message in cases:
        with pytest.raises(InputError, match=message):
            call()
