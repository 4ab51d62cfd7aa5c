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
    models: Sequence[Model],
    pixels: images.Pixels,
    image: batches.JudgedImage,
    point: verdict.Point,
    place: str,
) -> str:
    """HTML of each model's verdict on one cell, side by side; `place` says which of many it is."""
    columns = [
        (model, model.verdict_of(answer, point), answer, model.at(point), _overlay(model, pixels, answer))
        for model, answer in zip(models, image.answers, strict=True)
    ]
    picture = pictures.data_uri(pixels, pictures.SHOWN)
    return render("cell.html.j2", columns=columns, picture=picture, name=image.name, place=place)


def refusal(reason: str, place: str = "", name: str = "") -> str:
    """HTML that says why a file gets no verdict; `place`: as in `cell`."""
    return render("refusal.html.j2", verdict=verdict.unreadable(reason), place=place, name=name)


def _overlay(model: Model, pixels: images.Pixels, answer: Answer) -> str:
    """The map of an answer as a data URI; empty if there is none to show."""
    if answer.rejected or answer.map is None or not heatmap.decides(answer.map):
        return ""
    return pictures.data_uri(heatmap.overlay(model.bundle.visible_part(pixels), answer.map), pictures.SHOWN)


def batch(
    outcomes: Sequence[batches.Outcome], judged: Sequence[batches.JudgedImage], unsure_only: bool
) -> tuple[str, list[list[object]]]:
    """HTML of the totals of many cells, and the rows of their table (see `columns`).

    `unsure_only` leaves out the rows that are not worth a look.
    """
    by_image = list(zip(*(outcome.rows for outcome in outcomes), strict=True))
    rows = [
        _row(number, image, model_rows)
        for number, (image, model_rows) in enumerate(zip(judged, by_image, strict=True), 1)
        if not unsure_only or batches.worth_a_look(model_rows)
    ]
    csv = batches.as_csv(row for outcome in outcomes for row in outcome.rows)
    totals = render(
        "many.html.j2",
        outcomes=outcomes,
        left_out=Counter(image.reason for image in judged if not image.answers).most_common(),
        rows=rows,
        differing=sum(map(batches.differ, by_image)),
        csv=base64.b64encode(csv.encode()).decode(),
        unsure_only=unsure_only,
    )
    return totals, rows


def columns(models: Sequence[Model]) -> dict[str, tuple[str, str]]:
    """Columns of the table of many cells: by header, Gradio's data type and the width."""
    columns = {"#": ("number", "70px"), "Cell": ("html", "76px")}
    for model in models:
        version = f", {model.title}" if len(models) > 1 else ""
        for name, kind, least in (("Category", "str", 128), ("P", "number", 90)):
            header = f"{name}{version}"
            # px. Two headers that are cut off look the same.
            columns[header] = kind, f"{max(least, 50 + 8 * len(header))}px"
    return {**columns, "Note": ("str", "190px"), "File": ("str", "500px")}


def _row(number: int, image: batches.JudgedImage, rows: tuple[batches.Row, ...]) -> list[object]:
    """The table's row of an image; `rows`: one of each model."""
    values: list[object] = [number, f'<img src="{image.thumbnail}" alt="">' if image.thumbnail else ""]
    for row in rows:
        p = row.p_parasitized
        values += [row.category or "", None if p is None else float(verdict.number(p, row.threshold))]
    notes = ["versions differ"] if batches.differ(rows) else []
    notes += ["second look"] if any(row.second_look for row in rows) else []
    notes += [image.reason] if image.answers and image.reason else []
    return [*values, "; ".join(notes or {row.reason for row in rows if row.reason}), image.name]


def round_of(source: cells.Source, cards: tuple[cells.Card, ...], point: verdict.Point) -> str:
    """A round of labelled cells: the hidden one in front, the grid of all, the score."""
    return render(
        "round.html.j2",
        synthetic=not source,
        cards=cards,
        current=cells.current(cards),
        tally=cells.tally(cards, point),
        categories=[cells.category(card, point) for card in cards],
        known=sum(card.known is True for card in cards),
        unknown=any(card.known is None for card in cards),
    )
