"""A curve of base and branch: as SVG for the page, as Mermaid's `xychart` for a comment on GitHub.

A comment can carry no picture of its own; GitHub draws Mermaid, and without it the numbers still stand
there.
"""

from dataclasses import dataclass

import numpy as np

from ci.comparison import Curve

BASE, BRANCH = "#8a8a8a", "#c2410c"
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _MARGIN = 360, 240, 46, 36, 10
_TICKS = 5
_POINTS = 21
_DOTTED = 30

# The one line before a chart: colours as on the page, base first.
MERMAID_COLOURS = (
    f'%%{{init: {{"themeVariables": {{"xyChart": {{"plotColorPalette": "{BASE}, {BRANCH}"}}}}}}}}%%'
)


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: its place in the drawing, and its text."""

    place: float
    text: str


@dataclass(frozen=True)
class Drawing:
    """A chart laid out on `width` x `height`; lines are SVG's lists of points, empty where there are none.

    Short curves have `dots` (side, x, y) as well: a single point makes no line.
    """

    curve: Curve
    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    base: str
    branch: str
    dots: tuple[tuple[str, str, str], ...]
    ticks_x: tuple[Tick, ...]
    ticks_y: tuple[Tick, ...]


def drawing(curve: Curve) -> Drawing:
    """Lay `curve` out for the page."""
    (low_x, high_x), (low_y, high_y) = _range(curve, 0), _range(curve, 1)
    right, bottom = _WIDTH - _MARGIN, _HEIGHT - _BOTTOM

    def x_of(value: float) -> float:
        return _LEFT + (value - low_x) / (high_x - low_x) * (right - _LEFT)

    def y_of(value: float) -> float:
        return bottom - (value - low_y) / (high_y - low_y) * (bottom - _MARGIN)

    def line(points: tuple[tuple[float, float], ...]) -> str:
        return " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)

    return Drawing(
        curve=curve,
        width=_WIDTH,
        height=_HEIGHT,
        left=_LEFT,
        right=right,
        top=_MARGIN,
        bottom=bottom,
        base=line(curve.base),
        branch=line(curve.branch),
        dots=tuple(
            (side, f"{x_of(x):.1f}", f"{y_of(y):.1f}")
            for side, points in (("base", curve.base), ("branch", curve.branch))
            if len(points) <= _DOTTED
            for x, y in points
        ),
        ticks_x=tuple(
            Tick(round(x_of(value), 1), f"{value:g}") for value in _ticks(low_x, high_x, curve.x == "epoch")
        ),
        ticks_y=tuple(Tick(round(y_of(value), 1), f"{value:g}") for value in _ticks(low_y, high_y)),
    )


def mermaid(curve: Curve) -> str:
    """The lines of a Mermaid chart; both curves are read off at the same places, as it has one axis.

    Beyond its ends a curve is drawn level: a training that ended earlier stays where it ended.
    """
    (low_x, high_x), (low_y, high_y) = _range(curve, 0), _range(curve, 1)
    places = np.linspace(low_x, high_x, _POINTS)
    lines = [
        MERMAID_COLOURS,
        "xychart-beta",
        f'    title "{curve.title}: base grey, branch orange"',
        f'    x-axis "{curve.x}" {low_x:g} --> {high_x:g}',
        f'    y-axis "{curve.y}" {low_y:g} --> {high_y:g}',
    ]
    for points in (curve.base, curve.branch):
        if points:
            x, y = zip(*points, strict=True)
            lines.append(f"    line [{', '.join(f'{value:.4g}' for value in np.interp(places, x, y))}]")
    return "\n".join(lines)


def _range(curve: Curve, axis: int) -> tuple[float, float]:
    """From the least to the largest value of both; shares run from 0 to 1."""
    if (axis == 0 and curve.x != "epoch") or curve.title in ("ROC", "Reliability"):
        return 0.0, 1.0
    values = [point[axis] for point in (*curve.base, *curve.branch)] or [0.0, 1.0]
    low, high = min(values), max(values)
    if axis == 0:
        return low, max(high, low + 1)
    step = _step(max(high - low, 1e-3))
    return round(float(np.floor(low / step) * step), 6), round(float(np.ceil(high / step) * step), 6)


def _ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Places of an axis' marks; `whole` ones where it counts."""
    step = max(_step(high - low), 1.0 if whole else 0.0)
    first = np.ceil(low / step - 1e-9) * step
    # The sum turns -0 into 0.
    return [round(float(value), 6) + 0.0 for value in np.arange(first, high + step / 1000, step)]


def _step(span: float) -> float:
    """A round step of which about `_TICKS` make up `span`."""
    rough = span / _TICKS
    size = 10.0 ** np.floor(np.log10(rough))
    return float(next(size * times for times in (1, 2, 5, 10) if size * times >= rough * 0.999))
