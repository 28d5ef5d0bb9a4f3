"""Curves as inline SVG: no script, no outside file, colours from the page's style sheet.

Classes used: ``chart`` (the svg), ``grid``, ``axis`` (text), ``title``, ``empty``, and for series number i
``line s<i>`` or ``dots s<i>``.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 360, 220
"""Size of a chart in its own units; the page scales it."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 10, 30, 40
_MOST_POINTS = 400

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Series:
    """One quantity over time."""

    label: str
    """Its name in the legend."""
    points: Sequence[Point]
    """(x, y) in increasing x. Non-finite points are left out."""
    dots: bool = False
    """Mark every point (few measurements) instead of averaging many into a line."""


def chart(title: str, x_label: str, series: Sequence[Series], *, log_y: bool = False) -> str:
    """Draw series over a shared axis.

    Args:
        title: what is shown, with its unit.
        x_label: what runs along the bottom, with its unit.
        series: at most four; the ones without points are left out.
        log_y: logarithmic vertical axis; values at or below 0 are left out.

    Returns:
        An ``<svg>`` element. All texts are escaped. Without any point it says so.
    """
    shown = [(index, item, _clean(item.points, log_y)) for index, item in enumerate(series)]
    shown = [entry for entry in shown if entry[2]]
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">',
        f'<text class="title" x="{_LEFT}" y="18">{html.escape(title)}</text>',
    ]
    if not shown:
        parts.append(f'<text class="empty" x="{WIDTH / 2:.0f}" y="{HEIGHT / 2:.0f}">no measurements yet</text></svg>')
        return "".join(parts)
    xs = [x for _, _, points in shown for x, _ in points]
    ys = [y for _, _, points in shown for _, y in points]
    x_ticks, y_ticks = _ticks(0.0, max(xs)), _log_ticks(min(ys), max(ys)) if log_y else _ticks(min(ys), max(ys))
    frame = _Frame(x_ticks[0], x_ticks[-1], y_ticks[0], y_ticks[-1], log_y)
    for value in x_ticks:
        x = frame.x(value)
        parts.append(f'<text class="axis mid" x="{x:.1f}" y="{HEIGHT - _BOTTOM + 16}">{_number(value)}</text>')
    for value in y_ticks:
        y = frame.y(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="axis end" x="{_LEFT - 6}" y="{y + 4:.1f}">{_number(value)}</text>')
    parts.append(
        f'<text class="axis mid" x="{(_LEFT + WIDTH - _RIGHT) / 2:.0f}" y="{HEIGHT - 6}">{html.escape(x_label)}</text>'
    )
    for index, item, points in shown:
        parts.append(_draw(index, item, points, frame))
    parts.append(_legend([(index, item.label) for index, item, _ in shown]))
    return "".join([*parts, "</svg>"])


@dataclass(frozen=True)
class _Frame:
    """Where values lie in the picture."""

    left: float
    right: float
    bottom: float
    top: float
    log_y: bool

    def x(self, value: float) -> float:
        return _LEFT + (value - self.left) / (self.right - self.left) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self.bottom, self.top
        if self.log_y:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return HEIGHT - _BOTTOM - (value - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)


def _clean(points: Sequence[Point], log_y: bool) -> list[Point]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y) and (y > 0 or not log_y)]


def _draw(index: int, series: Series, points: list[Point], frame: _Frame) -> str:
    if not series.dots:
        points = _thin(points)
    path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
    kind = "dots" if series.dots else "line"
    parts = [f'<polyline class="{kind} s{index}" points="{path}"/>']
    # A line of one point draws nothing: mark it.
    if series.dots or len(points) == 1:
        for x, y in points:
            tip = f"<title>{html.escape(series.label)}: {_number(y)} at {_number(x)}</title>"
            place = f'cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}"'
            parts.append(f'<circle class="s{index}" {place} r="3">{tip}</circle>')
    return "".join(parts)


def _legend(entries: Sequence[tuple[int, str]]) -> str:
    if len(entries) < 2:
        return ""
    parts = []
    right = WIDTH - _RIGHT
    for index, label in reversed(entries):
        right -= 7 * len(label) + 18
        parts.append(f'<circle class="s{index}" cx="{right}" cy="14" r="4"/>')
        parts.append(f'<text class="axis" x="{right + 8}" y="18">{html.escape(label)}</text>')
    return "".join(parts)


def _thin(points: list[Point]) -> list[Point]:
    """At most ``_MOST_POINTS`` points: means of neighbours, which also quietens the noise of single batches."""
    if len(points) <= _MOST_POINTS:
        return points
    thinned = []
    for i in range(_MOST_POINTS):
        group = points[i * len(points) // _MOST_POINTS : (i + 1) * len(points) // _MOST_POINTS]
        thinned.append((sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)))
    return thinned


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that cover [low, high]: 3 to 8 of them."""
    if not high > low:
        # One value, or none apart: open a range around it, wide enough to survive rounding.
        spread = max(abs(high) * 0.05, 1e-6)
        low, high = (low - spread, high + spread) if low != 0 else (0.0, 1.0)
    step = 10.0 ** math.floor(math.log10((high - low) / 3))
    step *= next(factor for factor in (5, 2, 1) if (high - low) / (step * factor) >= 2.5 or factor == 1)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Values that cover [low, high], evenly spread on a logarithmic axis: powers of ten, or 1-2-5 in a short range."""
    decades = math.log10(high / low)
    if decades > 1.5:
        stride = math.ceil(decades / 5)
        first = math.floor(math.log10(low) / stride + 1e-9)
        last = math.ceil(math.log10(high) / stride - 1e-9)
        return [10.0 ** (stride * i) for i in range(first, last + 1)]
    start = math.floor(math.log10(low)) - 1
    values = [factor * 10.0**power for power in range(start, start + 5) for factor in (1, 2, 5)]
    first = max(i for i, value in enumerate(values) if value <= low * (1 + 1e-9))
    last = min(i for i, value in enumerate(values) if value >= high * (1 - 1e-9) and i > first)
    return values[first : last + 1]


def _number(value: float) -> str:
    """A number as short as an axis needs: 250k, 28.5, 0.002, 1e-6."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.4g}M"
    if size >= 1e4:
        return f"{value / 1e3:.4g}k"
    if size >= 1e-3:
        return f"{value:.4g}"
    # Below 1e-12 it is the rounding left over from adding up ticks.
    return f"{value:.2g}".replace("e-0", "e-") if size > 1e-12 else "0"
