"""Turn the model's answer into a verdict, in words that a laboratory uses."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from malaria import labels, predict
from malaria.bundle import Record

from .inference import Answer

NO_CELL = "This does not look like a stained red cell."

# A person should look if P lies between these: one such cell in ten, or more, is of the other class.
_UNSURE = (0.1, 0.9)


@dataclass(frozen=True)
class Point:
    """An operating point: a cell is called Parasitized if its P is at least `threshold`.

    `specificity`: the one that it was fixed for, if any, in [0, 1]. `missed` of 100 parasitised cells and
    `alarms` of 100 healthy ones get the wrong category; None if the bundle's figures do not say.
    """

    name: str
    threshold: float
    specificity: float | None = None
    missed: float | None = field(default=None, compare=False)
    alarms: float | None = field(default=None, compare=False)

    @property
    def band(self) -> tuple[float, float]:
        """The lowest and highest P that need a second look; the threshold always lies between them."""
        return min(_UNSURE[0], self.threshold), max(_UNSURE[1], min(self.threshold, 1.0))


@dataclass(frozen=True)
class Verdict:
    """What page and programs say about a cell; `p` and `category` are None unless the status is ok."""

    status: str
    p: float | None
    category: str | None
    second_look: bool
    headline: str
    sentences: tuple[str, ...]
    reason: str = ""


HALF = Point("0.5", 0.5)


def points(record: Record, scores: dict[str, Any] | None) -> tuple[Point, ...]:
    """The operating points, by threshold: 0.5, as on the original page, and the bundle's own.

    `scores`: figures of the bundle, which give each point's cost.
    """
    fitted = [
        Point(f"{point.specificity * 100:g} % specificity", point.threshold, point.specificity)
        for point in record.operating_points
    ]
    by_threshold = sorted([HALF, *fitted], key=lambda point: point.threshold)
    return tuple(_with_cost(point, scores or {}) for point in by_threshold)


def _with_cost(point: Point, scores: dict[str, Any]) -> Point:
    key = f"at_{(point.specificity or 0) * 100:g}_specificity"
    point_scores = scores if point.specificity is None else scores.get(key, {})
    rates = (point_scores.get(name, {}).get("value") for name in ("sensitivity", "specificity"))
    missed, alarms = (None if rate is None else 100 * (1 - rate) for rate in rates)
    return replace(point, missed=missed, alarms=alarms)


def cost(point: Point, choices: Sequence[Point]) -> str:
    """Describe the cost of an operating point to people who choose one of `choices`."""
    extremes = {choices[0]: ", fewest misses", choices[-1]: ", fewest false alarms"}
    costs = [
        f"of 100 parasitised cells {point.missed:.1f} missed" if point.missed is not None else "",
        f"of 100 healthy ones {point.alarms:.1f} called Parasitized" if point.alarms is not None else "",
    ]
    description = ", ".join(filter(None, costs)) or point.name
    return f"{point.threshold:.3f}{extremes.get(point, '')}: {description}"


def matching(point: Point, candidates: Sequence[Point]) -> Point:
    """The point of `candidates`, another model's, with the same specificity; else the same threshold."""
    if point.specificity is None:
        return next((candidate for candidate in candidates if candidate == point), point)
    return next((candidate for candidate in candidates if candidate.specificity == point.specificity), point)


def of(answer: Answer, point: Point, synthetic: bool) -> Verdict:
    """The verdict on one cell at an operating point; `synthetic`: the model knows only synthetic cells."""
    if answer.rejected is not None:
        # Do not repeat a reason that the headline gives.
        reason = answer.rejected.removeprefix(NO_CELL[0].lower() + NO_CELL[1:-1]).removeprefix(": ")
        advice = (
            "The model gives no category. It knows single red cells of a Giemsa-stained thin smear, cut out "
            "on black: upload one."
        )
        end = "" if reason.endswith("?") else "."
        reasons = [f"{reason[0].upper()}{reason[1:]}{end}"] if reason else []
        return Verdict(predict.REJECTED, None, None, False, NO_CELL, (*reasons, advice), answer.rejected)
    p = answer.p_parasitized
    category = labels.category(p, point.threshold)
    low, high = point.band
    second_look = low <= p <= high
    sentences = (*_meaning(p, synthetic), _side(p, point))
    if second_look:
        sentences += (
            "The model is not sure of this cell. Look at it yourself: at least one in ten such cells is of "
            "the other kind, or its P and the threshold lie near the same end of the scale.",
        )
    return Verdict(predict.PREDICTED, p, category, second_look, category, sentences)


def unreadable(reason: str) -> Verdict:
    """The verdict on a file that is no usable image."""
    headline = f"This file cannot be judged: {reason}."
    advice = "Upload a PNG, JPEG, TIFF or BMP image of one red cell."
    return Verdict(predict.UNREADABLE, None, None, False, headline, (advice,), reason)


def number(p: float, distinct_from: float | None = None) -> str:
    """Format P: three decimals, or six if it would look equal to `distinct_from` without being equal."""
    looks_equal = distinct_from is not None and p != distinct_from and f"{p:.3f}" == f"{distinct_from:.3f}"
    return f"{p:.6f}" if looks_equal else f"{p:.3f}"


def _meaning(p: float, synthetic: bool) -> tuple[str, ...]:
    share = round(100 * p)
    count = "fewer than 1" if share < 1 else "more than 99" if share > 99 else f"about {share}"
    cells = "drawn, synthetic cells" if synthetic else "labelled cells"
    return (
        f"Of 100 {cells} that the model rates like this one, {count} should be parasitised, "
        "in a set like the one it was calibrated on. In a smear with few parasites it is fewer.",
    )


def _side(p: float, point: Point) -> str:
    if p == point.threshold:
        return f"P lies exactly on the threshold, {number(p)}, which itself counts as Parasitized."
    side = "above" if p > point.threshold else "below"
    name = f" ({point.name})" if point.specificity else ""
    return f"P is {side} the threshold, {number(point.threshold, p)}{name}."
