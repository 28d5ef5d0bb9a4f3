import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from voxfield.export.curves import HEIGHT, WIDTH, Series, _log_ticks, _number, _ticks, chart


def points_of(svg):
    return [
        [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]
        for line in ElementTree.fromstring(svg).iter("polyline")
    ]


def test_line_spans_the_frame_and_rises():
    svg = chart("PSNR, dB", "steps", [Series(label="train", points=[(0, 20), (50, 25), (100, 30)])])
    (line,) = points_of(svg)
    assert [x for x, _ in line] == sorted(x for x, _ in line)
    assert [y for _, y in line] == sorted((y for _, y in line), reverse=True), "up is a smaller y in SVG"
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in line)
    assert line[1] == pytest.approx(((line[0][0] + line[2][0]) / 2, (line[0][1] + line[2][1]) / 2), abs=0.1)


def test_log_axis_makes_a_power_law_straight():
    svg = chart("loss", "steps", [Series(label="loss", points=[(i, 10.0**-i) for i in range(5)])], log_y=True)
    (line,) = points_of(svg)
    steps = [b[1] - a[1] for a, b in pairwise(line)]
    assert steps == pytest.approx([steps[0]] * 4, abs=0.2)


def test_many_points_are_averaged():
    noisy = [(i, 10 + (-1) ** i) for i in range(20_000)]
    (line,) = points_of(chart("t", "x", [Series(label="a", points=noisy)]))
    assert len(line) <= 400
    assert len({y for _, y in line}) == 1


def test_dots_keep_every_point_and_carry_their_value():
    svg = chart("t", "x", [Series(label="test <b>", points=[(1, 21.5), (2, 22.5)], dots=True)])
    titles = [e.text for e in ElementTree.fromstring(svg).iter("title")]
    assert titles == ["test <b>: 21.5 at 1", "test <b>: 22.5 at 2"]


@pytest.mark.parametrize(
    "points",
    [[], [(1.0, math.nan)], [(math.inf, 1.0)]],
)
def test_without_measurements_it_says_so(points):
    svg = chart("t", "x", [Series(label="a", points=points)])
    assert "no measurements yet" in svg
    ElementTree.fromstring(svg)


@pytest.mark.parametrize("points", [[(0, 0)], [(5, 5)], [(1, -3)], [(0, 1e-12), (0, 1e-12)], [(3, 1e9), (4, 1e9)]])
@pytest.mark.parametrize("log_y", [False, True])
def test_degenerate_series_are_drawn_with_finite_numbers(points, log_y):
    svg = chart("t", "x", [Series(label="a", points=points)], log_y=log_y)
    ElementTree.fromstring(svg)
    assert not re.search(r"nan|inf", svg.replace("no measurements yet", ""))


def test_everything_is_escaped():
    svg = chart('<script>"&', "<x>", [Series(label="<b>", points=[(0, 1)]), Series(label="&amp;", points=[(1, 2)])])
    ElementTree.fromstring(svg)
    assert "<script" not in svg
    assert "<b>" not in svg


@pytest.mark.parametrize("span", [(0, 10), (22.1, 28.3), (5, 5), (0, 0), (0, 1e-9), (-3, 4), (1e5, 1e9), (-7, -7)])
def test_ticks_cover_the_range_with_few_round_numbers(span):
    ticks = _ticks(*span)
    assert ticks[0] <= span[0] <= span[1] <= ticks[-1]
    assert 3 <= len(ticks) <= 9
    steps = [b - a for a, b in pairwise(ticks)]
    assert steps == pytest.approx([steps[0]] * len(steps))


@pytest.mark.parametrize("span", [(1e-4, 0.1), (0.02, 0.03), (1, 1), (1e-10, 1), (9, 11), (0.0019, 0.0093), (0.5, 0.5)])
def test_log_ticks_cover_the_range(span):
    ticks = _log_ticks(*span)
    assert ticks[0] <= span[0] * (1 + 1e-9)
    assert ticks[-1] >= span[1] * (1 - 1e-9)
    assert 2 <= len(ticks) <= 8
    assert ticks == sorted(set(ticks))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (28.5, "28.5"), (250_000, "250k"), (2.5e6, "2.5M"), (0.002, "0.002"), (1e-6, "1e-6"), (-4e-7, "-4e-7")],
)
def test_numbers_are_short(value, text):
    assert _number(value) == text
