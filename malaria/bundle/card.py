"""Render the model card, with figures from the predictions of exported networks only."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from malaria import bundle, templates
from malaria.evaluate import metrics

# Parasitaemias, as shares of red cells, for which the card gives the positive predictive value.
PARASITAEMIAS = (0.001, 0.01, 0.05)


@dataclass(frozen=True)
class Background:
    """What the card says besides the bundle's own figures.

    by_patient: whether every patient is known, and none was both learned from and judged. origin: a paragraph
    about the data and how the bundle was made, as Markdown. laboratories: `external.judge` of each set, with
    `learned`: whether the bundle has learned from the set. If so, a network that has not was judged.
    """

    by_patient: bool
    origin: str = ""
    laboratories: dict[str, dict[str, Any]] = field(default_factory=dict)


def render(
    record: bundle.Record, parameters: int, sides: dict[str, dict[str, Any]], background: Background
) -> str:
    """The text of `MODEL_CARD.md`.

    Args:
        sides: `evaluation.score` of each side, with `evaluation.rejections` under `rejected`. Temperature and
            operating points were fitted on the first; the card's figures are those of the last. A single side
            is out of fold.
    """
    environment = templates.environment(Path(__file__).parent, autoescape=False)
    environment.filters["figure"] = lambda figure: metrics.interval(**figure, form=".3f", unknown="not known")
    environment.filters["count"] = lambda figure: metrics.interval(**figure, form=".0f", unknown="not known")
    fitted_on, judged = next(iter(sides)), list(sides)[-1]
    return environment.get_template("model_card.md.j2").render(
        record=record,
        sides=sides,
        fitted_on=fitted_on,
        judged=judged,
        figures=sides[judged],
        parameters=parameters,
        points=_points(record, sides[judged], fitted_on),
        parasitaemias=PARASITAEMIAS,
        **vars(background),
    )


def _points(record: bundle.Record, judged: dict[str, Any], fitted_on: str) -> list[dict[str, Any]]:
    """The card's table of operating points: 0.5 first, then those that were fitted."""
    rows = [{**judged, "name": "0.5", "threshold": 0.5}]
    for point in record.operating_points:
        percent = f"{100 * point.specificity:g}"
        rows.append({**judged[f"at_{percent}_specificity"], "name": f"{percent} % specificity {fitted_on}"})
    for row in rows:
        rates = row["sensitivity"]["value"], row["specificity"]["value"]
        unknown = None in rates
        row["ppv"] = [math.nan if unknown else metrics.ppv(*rates, share) for share in PARASITAEMIAS]
    return rows
