"""Render the page's own HTML from `templates/`, with all values escaped."""

import base64
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from malaria import RESEARCH, templates
from malaria.cells import images

from . import batches, cells, heatmap, pictures, verdict
from .inference import Answer
from .model import Model

_TEMPLATES = Path(__file__).parent / "templates"
_ENVIRONMENT = templates.environment(_TEMPLATES, autoescape=True)
_ENVIRONMENT.filters["p"] = verdict.number


def render(template: str, **values: Any) -> str:
    """Fill a template with values."""
    return _ENVIRONMENT.get_template(template).render(**values)


def text(name: str) -> str:
    """A file of `templates/` as it is: the style sheet or the script."""
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def header(models: Sequence[Model]) -> str:
    """HTML of the page's top: title, purpose, and what a visitor must know about the models first."""
    return render("header.html.j2", models=models, research=RESEARCH)


def cell(
    models: Sequence[Model], pixels: images.Pixels, one: batches.Judged, point: verdict.Point, place: str = ""
) -> str:
    """HTML of each model's verdict on one cell, side by side; `place` says which of many it is."""
    columns = [
        (model, model.says(answer, point), answer, model.at(point), _heat(model, pixels, answer))
        for model, answer in zip(models, one.answers, strict=True)
    ]
    picture = pictures.data_uri(pixels, pictures.SHOWN)
    return render("cell.html.j2", columns=columns, picture=picture, name=one.name, place=place)


def refusal(reason: str, place: str = "", name: str = "") -> str:
    """HTML that says why a file gets no verdict; `place`: as in `cell`."""
    return render("refusal.html.j2", said=verdict.unreadable(reason), place=place, name=name)


def _heat(model: Model, pixels: images.Pixels, answer: Answer) -> str:
    """The map of an answer as a data URI; empty if there is none to show."""
    if answer.rejected or answer.map is None or not heatmap.decides(answer):
        return ""
    return pictures.data_uri(heatmap.overlay(model.bundle.seen(pixels), answer.map), pictures.SHOWN)


def batch(
    outcomes: Sequence[batches.Outcome], judged: Sequence[batches.Judged], unsure_only: bool
) -> tuple[str, list[list[object]]]:
    """HTML of the totals of many cells, and the rows of their table (see `columns`).

    `unsure_only` leaves out the rows that are not worth a look.
    """
    together = list(zip(*(outcome.rows for outcome in outcomes), strict=True))
    rows = [
        _row(number, one, said)
        for number, (one, said) in enumerate(zip(judged, together, strict=True), 1)
        if not unsure_only or batches.worth_a_look(said)
    ]
    csv = batches.as_csv(row for outcome in outcomes for row in outcome.rows)
    totals = render(
        "many.html.j2",
        outcomes=outcomes,
        left_out=Counter(one.reason for one in judged if not one.answers).most_common(),
        rows=rows,
        differing=sum(map(batches.differ, together)),
        csv=base64.b64encode(csv.encode()).decode(),
        unsure_only=unsure_only,
    )
    return totals, rows


def columns(models: Sequence[Model]) -> dict[str, tuple[str, str]]:
    """Columns of the table of many cells: by header, Gradio's data type and the width."""
    answers: dict[str, tuple[str, str]] = {}
    for model in models:
        version = f", {model.title}" if len(models) > 1 else ""
        for name, kind, least in (("Category", "str", 128), ("P", "number", 90)):
            header = f"{name}{version}"
            # px. Two headers that are cut off look the same.
            answers[header] = kind, f"{max(least, 50 + 8 * len(header))}px"
    first = {"#": ("number", "70px"), "Cell": ("html", "76px")}
    return {**first, **answers, "Note": ("str", "190px"), "File": ("str", "500px")}


def _row(number: int, one: batches.Judged, said: tuple[batches.Row, ...]) -> list[object]:
    row: list[object] = [number, f'<img src="{one.thumbnail}" alt="">' if one.thumbnail else ""]
    for by in said:
        p = by.p_parasitized
        row += [by.category or "", None if p is None else float(verdict.number(p, by.threshold))]
    notes = ["versions differ"] if batches.differ(said) else []
    notes += ["second look"] if any(by.second_look for by in said) else []
    notes += [one.reason] if one.answers and one.reason else []
    return [*row, "; ".join(notes or {by.reason for by in said if by.reason}), one.name]


def round_of(source: cells.Source, cards: tuple[cells.Card, ...], point: verdict.Point) -> str:
    """A round of labelled cells: the hidden one in front, the grid of all, the score."""
    return render(
        "round.html.j2",
        synthetic=not source,
        cards=cards,
        current=cells.current(cards),
        tally=cells.tally(cards, point),
        called=[cells.called(card, point) for card in cards],
        met=sum(card.met is True for card in cards),
        unknown=any(card.met is None for card in cards),
    )
