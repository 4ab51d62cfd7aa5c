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


def _render(template: str, **values: Any) -> str:
    return _ENVIRONMENT.get_template(template).render(**values)


def text(name: str) -> str:
    """A file of the templates as it is: the style sheet and the script."""
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def header(models: Sequence[Model]) -> str:
    """Title, what to do, and what a visitor must know of the models first."""
    return _render("header.html.j2", models=models)


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
) -> tuple[str, list[list[object]]]:
    """Totals of many cells, and the rows of their table (`columns`); `unsure_only` leaves out those that
    need no second look.
    """
    said = [batches.verdicts(model, number, judged, point) for number, model in enumerate(models)]
    points = [model.at(point) for model in models]
    cells = list(zip(*said, strict=True))
    rows = [
        _row(one, verdicts, points)
        for one, verdicts in zip(judged, cells, strict=True)
        if not unsure_only or _differ(verdicts) or any(one.second_look for one in verdicts)
    ]
    totals = _render(
        "many.html.j2",
        columns=list(zip(models, points, map(batches.totals, said), strict=True)),
        rows=rows,
        differing=sum(map(_differ, cells)),
        csv=base64.b64encode(batches.as_csv(judged, said[0]).encode()).decode(),
        unsure_only=unsure_only,
    )
    return totals, rows


def columns(models: Sequence[Model]) -> dict[str, str]:
    """The columns of the table of many cells, and Gradio's names for what they hold."""
    answers: dict[str, str] = {}
    for model in models:
        version = f", {model.title}" if len(models) > 1 else ""
        answers |= {f"P{version}": "number", f"Category{version}": "str"}
    return {"Cell": "html", "File": "str", **answers, "Note": "str"}


def _row(
    one: batches.Judged, verdicts: Sequence[verdict.Verdict], points: Sequence[verdict.Point]
) -> list[object]:
    row: list[object] = [f'<img src="{one.thumbnail}" alt="">' if one.thumbnail else "", one.name]
    for said, point in zip(verdicts, points, strict=True):
        p = None if said.p is None else float(verdict.number(said.p, point.threshold))
        row += [p, said.category or ""]
    notes = ["versions differ"] if _differ(verdicts) else []
    notes += ["second look"] if any(said.second_look for said in verdicts) else []
    return [*row, "; ".join(notes or {said.reason for said in verdicts if said.reason})]


def _differ(verdicts: Sequence[verdict.Verdict]) -> bool:
    return len({said.category for said in verdicts}) > 1


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
