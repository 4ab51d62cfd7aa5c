"""The page's own HTML, from the templates beside this module; everything put into them is escaped."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from malaria import templates

from . import batches, cells, verdict
from .inference import Answer
from .model import Model

_TEMPLATES = Path(__file__).parent / "templates"
_ENVIRONMENT = templates.environment(_TEMPLATES, autoescape=True)
_ENVIRONMENT.filters["p"] = verdict.number

# Rows of a batch that the page shows; the CSV has all.
MOST_ROWS = 500


def _render(template: str, **values: Any) -> str:
    return _ENVIRONMENT.get_template(template).render(**values)


def text(name: str) -> str:
    """A file of the templates as it is: the style sheet and the script."""
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def header(models: Sequence[Model]) -> str:
    """Title, what to do, and what a visitor must know of the models first."""
    return _render("header.html.j2", models=models)


def points(models: Sequence[Model], chosen: verdict.Point) -> str:
    """The names of the slider's places, and what the chosen one means."""
    return _render("points.html.j2", points=models[0].points, chosen=chosen, others=models[1:])


def cell(
    models: Sequence[Model],
    picture: str,
    answers: Sequence[Answer],
    heats: Sequence[str],
    point: verdict.Point,
) -> str:
    """The verdict of each model on one cell, side by side."""
    columns = [
        (model, model.says(answer, point), heat, model.at(point))
        for model, answer, heat in zip(models, answers, heats, strict=True)
    ]
    return _render("cell.html.j2", columns=columns, picture=picture)


def refusal(said: verdict.Verdict) -> str:
    """Why a file cannot be judged."""
    return _render("refusal.html.j2", said=said)


def batch(
    models: Sequence[Model], judged: Sequence[batches.Judged], point: verdict.Point, unsure_only: bool
) -> str:
    """Totals and table of many cells; `unsure_only` leaves out those that need no second look."""
    verdicts = [batches.verdicts(model, number, judged, point) for number, model in enumerate(models)]
    differ = [len({said.category for said in row}) > 1 for row in zip(*verdicts, strict=True)]
    rows = [
        (one, said, differs)
        for one, said, differs in zip(judged, zip(*verdicts, strict=True), differ, strict=True)
        if not unsure_only or differs or any(one.second_look for one in said)
    ]
    return _render(
        "many.html.j2",
        columns=[
            (model, model.at(point), batches.totals(said))
            for model, said in zip(models, verdicts, strict=True)
        ],
        rows=rows[:MOST_ROWS],
        left_out=max(0, len(rows) - MOST_ROWS),
        differing=sum(differ),
        csv=base64.b64encode(batches.as_csv(judged, verdicts[0]).encode()).decode(),
        unsure_only=unsure_only,
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
