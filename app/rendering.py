"""The page's own HTML, from the templates beside this module; everything put into them is escaped."""

import base64
from collections.abc import Sequence
from typing import Any

import jinja2

from app import cells, many, pictures, verdict
from app.model import Model
from malaria import images

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("app"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters["p"] = verdict.number

# Rows of a batch that the page shows; the CSV has all.
MOST_ROWS = 500


def _render(template: str, **values: Any) -> str:
    return _ENVIRONMENT.get_template(template).render(**values)


def text(name: str) -> str:
    """A file of the templates as it is: the style sheet and the script."""
    assert _ENVIRONMENT.loader is not None
    return _ENVIRONMENT.loader.get_source(_ENVIRONMENT, name)[0]


def header(model: Model) -> str:
    """Title, what to do, and the note that stays in sight."""
    return _render("header.html.j2", model=model, research=verdict.RESEARCH)


def points(model: Model, chosen: verdict.Point) -> str:
    """The names of the slider's places, and what the chosen one means."""
    return _render("points.html.j2", points=model.points, chosen=chosen)


def cell(
    models: Sequence[Model],
    pixels: images.Pixels,
    heats: Sequence[str],
    verdicts: Sequence[verdict.Verdict],
    point: verdict.Point,
) -> str:
    """The verdict of each model on one cell, side by side."""
    columns = list(zip(models, verdicts, heats, strict=True))
    picture = pictures.data_uri(pixels, pictures.SHOWN)
    return _render("cell.html.j2", columns=columns, picture=picture, point=point)


def refusal(said: verdict.Verdict) -> str:
    """Why a file cannot be judged."""
    return _render("refusal.html.j2", said=said)


def batch(
    models: Sequence[Model], judged: Sequence[many.Judged], point: verdict.Point, unsure_only: bool
) -> str:
    """Totals and table of many cells."""
    synthetic = models[0].record.synthetic
    rows = [(one, many.verdict_on(one, point, synthetic)) for one in judged]
    table = many.as_csv(judged, [said for _, said in rows])
    wanted = [row for row in rows if row[1].second_look] if unsure_only else rows
    return _render(
        "many.html.j2",
        totals=many.totals([said for _, said in rows]),
        rows=wanted[:MOST_ROWS],
        left_out=max(0, len(wanted) - MOST_ROWS),
        csv=base64.b64encode(table.encode()).decode(),
        point=point,
        unsure_only=unsure_only,
        other=models[1] if len(models) > 1 else None,
    )


def round_of(model: Model, source: cells.Source, cards: tuple[cells.Card, ...], point: verdict.Point) -> str:
    """A round of labelled cells: the hidden one in front, the grid of all, the score."""
    return _render(
        "round.html.j2",
        source=source,
        cards=cards,
        current=cells.current(cards),
        tally=cells.tally(cards, point),
        called=[cells.called(card, point) for card in cards],
        met=sum(card.met is True for card in cards),
        unknown=any(card.met is None for card in cards),
        model=model,
    )


def about(models: Sequence[Model]) -> str:
    """Where the served bundle comes from, its figures and plots."""
    return _render("about.html.j2", models=models)
