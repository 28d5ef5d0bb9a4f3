import math

import pytest
import torch

from voxfield.errors import InputError
from voxfield.fields.pyramid_levels import PyramidLevels, blend, group_levels

LEVELS = PyramidLevels(num_levels=8, scale_factor=2.0, max_resolution=2048, extent=4.0)


def level_weights(level: torch.Tensor, num_levels: int, blending: str) -> torch.Tensor:
    """(N, L) weights of every level, from the groups."""
    grouped = group_levels(level, num_levels, blending)  # type: ignore[arg-type]
    weights = torch.zeros(len(level), num_levels)
    start = 0
    for group in grouped.groups:
        rows = grouped.order[start : start + group.count]
        start += group.count
        for at in group.levels:
            # The blend of indicators is the weight.
            values = [torch.full((1, group.count), float(other == at)) for other in group.levels]
            weights[rows, at] = blend(values, group.share, blending)[0]  # type: ignore[arg-type]
    assert start == len(level)
    return weights


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (4 / 2048, {7: 1.0}),
        (1.5 * 4 / 2048, {6: math.log2(1.5), 7: 1 - math.log2(1.5)}),
        (0.04, {2: 0.356143810225, 3: 0.643856189775}),
        (1.0, {0: 1.0}),
        (1e-9, {7: 1.0}),
        (8 / 2048, {6: 1.0}),
    ],
)
def test_published_levels(width: float, expected: dict[int, float]) -> None:
    weights = level_weights(LEVELS.of_width(torch.tensor([width])), 8, "linear")[0]
    wanted = torch.zeros(8)
    for level, weight in expected.items():
        wanted[level] = weight
    if len(expected) == 1:
        assert torch.equal(weights, wanted)
    torch.testing.assert_close(weights, wanted, rtol=0, atol=2e-6)


def test_the_papers_example_of_rounding() -> None:
    # A footprint of an eighth with resolutions 2, 4, 8, 16: the third level.
    small = PyramidLevels(num_levels=4, scale_factor=2.0, max_resolution=16, extent=1.0)
    assert small.resolutions == (2, 4, 8, 16)
    assert float(small.of_width(torch.tensor([0.125]))[0]) == 2.0


def test_resolutions() -> None:
    assert LEVELS.resolutions == (16, 32, 64, 128, 256, 512, 1024, 2048)
    by_half = PyramidLevels(num_levels=6, scale_factor=1.5, max_resolution=243, extent=1.0)
    assert by_half.resolutions == pytest.approx((32, 48, 72, 108, 162, 243))


@pytest.mark.parametrize("scale_factor", [1.3, 2.0, 4.0])
def test_a_factor_wider_is_one_level_coarser(scale_factor: float) -> None:
    levels = PyramidLevels(num_levels=4, scale_factor=scale_factor, max_resolution=512, extent=7.0)
    width = torch.logspace(-3, -1, 50, dtype=torch.float64)
    apart = levels.of_width(width) - levels.of_width(width * scale_factor)
    torch.testing.assert_close(apart, torch.ones(50, dtype=torch.float64))
    cells = torch.tensor([7.0 / resolution for resolution in levels.resolutions], dtype=torch.float64)
    torch.testing.assert_close(levels.of_width(cells), torch.arange(4, dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_pixel_is_as_wide_as_its_distance() -> None:
    area = torch.tensor([1e-4, 4e-4])
    distance = torch.tensor([2.0, 1.0])
    found = LEVELS.at_distance(area, distance)
    torch.testing.assert_close(found, LEVELS.of_width(torch.tensor([0.02, 0.02])))
    assert bool(LEVELS.at_distance(area, torch.zeros(2)).isfinite().all()), "a sample at the camera"


@pytest.mark.parametrize("blending", ["linear", "none", "laplacian"])
def test_weights_are_those_of_the_formula(blending: str) -> None:
    level = torch.cat([torch.linspace(-2.0, 9.0, 331), torch.arange(-1.0, 9.0)])
    inside, steps = level.clamp(0, 7)[:, None], torch.arange(8.0)
    expected = {
        "linear": (1 - (inside - steps).abs()).clamp(min=0),
        "none": (inside.ceil() == steps).float(),
        "laplacian": torch.where(steps == 0, torch.ones(()), (inside - steps + 1).clamp(0, 1)),
    }[blending]
    torch.testing.assert_close(level_weights(level, 8, blending), expected, rtol=0, atol=1e-6)


def test_no_more_levels_are_asked_than_count() -> None:
    level = torch.tensor([2.0, 2.5, -4.0, 12.0, 2.25])
    asked = {group.levels: group.count for group in group_levels(level, 8, "linear").groups}
    assert asked == {(0,): 1, (2,): 1, (2, 3): 2, (7,): 1}
    assert [group.levels for group in group_levels(level, 8, "none").groups] == [(0,), (2,), (3,), (7,)]
    assert group_levels(torch.zeros(0), 8, "linear").groups == ()


def test_samples_of_a_group_stay_in_order() -> None:
    level = torch.tensor([3.2, 1.0, 3.7, 1.0, 3.1])
    assert group_levels(level, 8, "linear").order.tolist() == [1, 3, 0, 2, 4]


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan, math.inf])
def test_impossible_widths_are_refused(wrong: float) -> None:
    with pytest.raises(InputError, match=r"width: .* got 1 of 3 that are not"):
        LEVELS.of_width(torch.tensor([0.1, wrong, 0.2]))
    with pytest.raises(InputError, match="pixel areas"):
        LEVELS.at_distance(torch.tensor([wrong]), torch.ones(1))


def test_more_levels_than_the_resolution_allows_are_refused() -> None:
    with pytest.raises(InputError, match="at most 12 levels"):
        PyramidLevels(num_levels=13, scale_factor=2.0, max_resolution=2048, extent=4.0)
    with pytest.raises(InputError, match="at most 8 levels"):
        PyramidLevels(num_levels=9, scale_factor=2.0, max_resolution=2048, extent=4.0, least_resolution=16)
    assert PyramidLevels(num_levels=12, scale_factor=2.0, max_resolution=2048, extent=4.0).resolutions[0] == 1


@pytest.mark.parametrize(
    "bad", [{"num_levels": 0}, {"num_levels": 17}, {"scale_factor": 1.0}, {"max_resolution": 0.0}, {"extent": math.nan}]
)
def test_settings_are_checked(bad: dict[str, float]) -> None:
    good = {"num_levels": 8, "scale_factor": 2.0, "max_resolution": 2048, "extent": 4.0}
    with pytest.raises(InputError, match=next(iter(bad))):
        PyramidLevels(**{**good, **bad})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="blending"):
        group_levels(torch.zeros(1), 8, "cubic")  # type: ignore[arg-type]
