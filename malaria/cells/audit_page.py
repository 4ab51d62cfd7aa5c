"""Render the audit as one HTML page, with its pictures and charts embedded."""

import base64
import io
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from malaria import charts, paths, tables, templates
from malaria.cells import audit, images
from malaria.cells.prepared import cell_mask
from malaria.cells.provenance import Provenance
from malaria.labels import LABELS, PARASITIZED, UNINFECTED

SHEET_CELLS = 60  # on each contact sheet
SHEET_SIDE = 72  # px on the page for the longer side of a median cell; all cells have the same scale
SWATCH_CELLS = 3  # cells of each patient whose colours are averaged
MAX_SWATCHES = 400
MAX_BARS = 400
MAX_ROWS = 500  # of quarantined images; the others are in cells.csv

CHART_WIDTH, CHART_HEIGHT = 880, 200  # px
WORDS = {PARASITIZED: "Parasitised", UNINFECTED: "Uninfected"}
INFECTED, CONTROLS, UNKNOWN = "Infected patients", "Uninfected controls", "Patient unknown"

# The attributes of an <img>; None for a file that cannot be read.
Picture = dict[str, str | int] | None


def render(
    raw: Path, cells: pd.DataFrame, summary: audit.Summary, provenance: Provenance, max_pixels: int
) -> str:
    """The page as HTML; the same cells give the same text.

    Args:
        raw: the folder to which the paths in `cells` are relative; pictures are read from it.
        cells, summary: the audit's rows (tables.CELLS) and their summary.
        max_pixels: larger images are not decoded.
    """
    accepted = cells[cells.status == tables.OK]
    parasitized = accepted.label == PARASITIZED
    infected = accepted.patient.isin(accepted.patient[parasitized])
    accepted = accepted.assign(
        side=accepted[["width", "height"]].max(axis=1),
        parasitized=parasitized,
        kind=infected.map({True: INFECTED, False: CONTROLS}).mask(accepted.patient == "", UNKNOWN),
    )
    kinds = accepted.groupby("kind").agg(
        patients=("patient", "nunique"), parasitized=("parasitized", "sum"), cells=("label", "size")
    )
    kinds = kinds.reindex([INFECTED, CONTROLS, UNKNOWN]).dropna().astype(int)
    kinds.loc["All"] = kinds.sum() - [UNKNOWN in kinds.index, 0, 0]
    quarantined = cells[cells.status == tables.QUARANTINED]
    with_patient = accepted[accepted.kind != UNKNOWN]
    limits = images.Limits(min_side=1, max_pixels=max_pixels, bits=audit.bits_in_use(cells))
    rows = quarantined.head(MAX_ROWS).fillna({"width": 0, "height": 0}).itertuples()
    # If the cells were cut out of fields: some of these fields, with outlined cells.
    fields = sorted((raw / paths.FIELD_PICTURES).glob("*.jpg"))
    environment = templates.environment(Path(__file__).parent, autoescape=True)
    return environment.get_template("audit_page.html.j2").render(
        provenance=provenance,
        summary=summary,
        notes=audit.notes(raw, cells, provenance, summary),
        kinds=kinds,
        sizes=_sizes(accepted),
        patients=_patients(with_patient),
        patients_left_out=max(with_patient.patient.nunique() - MAX_BARS, 0),
        swatches=_swatches(raw, with_patient, limits),
        sheets={label: _sheet(raw, accepted, label, limits) for label in reversed(LABELS)},
        fields=[_picture(raw, f"{paths.FIELD_PICTURES}/{file.name}", limits) for file in fields],
        quarantined=[(row, _picture(raw, str(row.path), limits, max_side=SHEET_SIDE)) for row in rows],
        quarantined_left_out=max(len(quarantined) - MAX_ROWS, 0),
        words=WORDS,
    )


def _sizes(accepted: pd.DataFrame) -> str:
    """A histogram of the cells' longer sides, as SVG; empty if all are the same."""
    if accepted.side.nunique() < 2:
        return ""
    counts = accepted.groupby(["side", "label"]).size().rename("cells").reset_index()
    return _bars(counts, {"field": "side", "bin": {"maxbins": 40}, "title": "longer side, px"})


def _patients(cells: pd.DataFrame) -> str:
    """Bars (SVG) of each patient's cells, most parasitised cells first; empty without patients."""
    if cells.empty:
        return ""
    counts = cells.groupby(["kind", "patient", "label"]).size().unstack(fill_value=0)
    counts = counts.reindex(columns=list(LABELS), fill_value=0).reset_index()
    counts = counts.sort_values([PARASITIZED, UNINFECTED, "patient"], ascending=[False, False, True])
    bars = counts.head(MAX_BARS).melt(["patient", "kind"], list(LABELS), "label", "cells")
    axis = {"labels": False, "ticks": False}
    x = {"field": "patient", "sort": list(counts.patient), "title": None, "axis": axis}
    column = {"field": "kind", "sort": [INFECTED, CONTROLS], "title": None, "spacing": 12}
    return _bars(bars, x, column=column)


def _bars(counts: pd.DataFrame, x: dict[str, Any], **encoding: dict[str, Any]) -> str:
    """Bars of `cells` over `x`, as SVG in the page's colours; parasitised cells are at the bottom."""
    colours = [f"var(--{label.lower()})" for label in reversed(LABELS)]
    specification = {
        "data": {"values": counts.replace({"label": WORDS}).to_dict("records")},
        "mark": "bar",
        "width": {"step": CHART_WIDTH / counts[x["field"]].nunique()} if encoding else CHART_WIDTH,
        "height": CHART_HEIGHT,
        "resolve": {"scale": {"x": "independent"}},
        "encoding": {
            "x": x,
            "y": {"field": "cells", "aggregate": "sum", "title": "cells"},
            "color": {
                "field": "label",
                "scale": {"domain": list(WORDS.values()), "range": colours},
                "legend": {"orient": "bottom", "title": None},
            },
            "order": {"field": "label"},
            **encoding,
        },
    }
    return charts.svg(specification)


def _in_turns(cells: pd.DataFrame) -> pd.DataFrame:
    """Shuffle `cells`, sorted by path; the new column `turn` numbers each patient's cells from 0.

    The order is that of the cells' hashes, so that a few cells more or less change little on the page.
    """
    shuffled = cells.sort_values("sha256", kind="stable")
    patient = shuffled.patient.where(shuffled.patient != "", shuffled.path)
    return shuffled.assign(turn=shuffled.groupby(patient).cumcount())


def _sheet(raw: Path, accepted: pd.DataFrame, label: str, limits: images.Limits) -> list[Picture]:
    """Up to SHEET_CELLS cells of one class, from as many patients as possible, all at one scale."""
    cells = _in_turns(accepted[accepted.label == label])
    if cells.empty:
        return []
    scale = SHEET_SIDE / float(accepted.side.median())
    sheet_paths = cells.sort_values("turn", kind="stable").path.head(SHEET_CELLS)
    return [_picture(raw, path, limits, scale) for path in sheet_paths]


def _swatches(raw: Path, cells: pd.DataFrame, limits: images.Limits) -> dict[str, str]:
    """The mean colour of a few cells of each patient, as CSS by patient, the darkest first."""
    in_turns = _in_turns(cells[cells.patient.isin(sorted(set(cells.patient))[:MAX_SWATCHES])])
    first_cells = in_turns[in_turns.turn < SWATCH_CELLS]
    with ThreadPoolExecutor() as pool:
        colours = list(pool.map(lambda path: _colour(raw / path, limits), first_cells.path))
    means = pd.DataFrame(colours, columns=list("rgb")).groupby(first_cells.patient.to_numpy()).mean()
    order = means.sum(axis=1).sort_values(kind="stable").index
    return {str(patient): "rgb({:.0f} {:.0f} {:.0f})".format(*means.loc[patient]) for patient in order}


def _colour(path: Path, limits: images.Limits) -> npt.NDArray[np.float64]:
    """The mean RGB inside a cell, float64 (3,)."""
    # Every fourth pixel in each direction gives the same colour in a sixteenth of the time.
    pixels = images.read(path, limits).pixels[::4, ::4]
    inside = pixels[cell_mask(pixels)]
    return inside.mean(axis=0) if len(inside) else np.zeros(3)


def _picture(
    raw: Path, path: str, limits: images.Limits, scale: float = 1.0, max_side: float = math.inf
) -> Picture:
    """The image embedded as JPEG.

    Args:
        scale: px on the page for one px in the file.
        max_side: largest length of the longer side on the page, in px.
    """
    try:
        crop = images.read(raw / path, limits)
    except images.Unreadable:
        return None
    image = Image.fromarray(crop.pixels)
    title = f"{path}, {image.width} by {image.height} px"
    side = max(image.size)
    factor = min(side * scale, max_side) / side
    width, height = (max(round(length * factor), 1) for length in image.size)
    # 1.5 times the size on the page, for screens of high density; thumbnail() never enlarges.
    image.thumbnail((width * 3 // 2 + 1, height * 3 // 2 + 1), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=88)
    uri = "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
    return {"src": uri, "width": width, "height": height, "alt": title, "title": title}
