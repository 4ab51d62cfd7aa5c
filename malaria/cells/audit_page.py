"""The audit as one page that a person looks at: everything on it is inside the file itself."""

import base64
import io
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from malaria import tables
from malaria.cells import audit, images
from malaria.labels import LABELS, PARASITIZED, UNINFECTED

Colour = npt.NDArray[np.float64]

SHEET_CELLS = 60  # on each contact sheet
SHEET_SIDE = 72  # px on the page that a cell of median size gets; all cells have one scale
SWATCH_CELLS = 3  # cells a patient whose colour is averaged
MOST_SWATCHES = 400
MOST_BARS = 400
MOST_ROWS = 500  # of quarantined images; the others are in cells.csv
MOST_THUMBNAILS = 100

# Outside the cell crops are black, apart from what compression left there.
_DARKEST_OF_CELL = 16


@dataclass(frozen=True)
class Bar:
    """One column of a chart, in the chart's units: a parasitised part below an uninfected one."""

    x: float
    width: float
    parasitized: float
    uninfected: float
    title: str


@dataclass(frozen=True)
class Chart:
    """Columns over an axis: `ticks_x` and `ticks_y` are places, in the chart's units, with texts."""

    bars: tuple[Bar, ...]
    width: float
    height: float
    ticks_x: tuple[tuple[float, str], ...]
    ticks_y: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Kind:
    """A row of the table of counts: patients of one kind and their accepted cells."""

    name: str
    patients: int | None
    parasitized: int
    uninfected: int


@dataclass(frozen=True)
class Picture:
    """An embedded image, `width` x `height` px on the page; `uri` is empty where there is none."""

    uri: str
    width: int
    height: int
    path: str
    title: str


@dataclass(frozen=True)
class Swatch:
    """A patient and the mean colour of its cells, as CSS has it."""

    patient: str
    colour: str


@dataclass(frozen=True)
class Aside:
    """A quarantined image."""

    picture: Picture
    size: str
    reason: str


def render(
    raw: Path,
    cells: pd.DataFrame,
    summary: audit.Summary,
    provenance: audit.Provenance,
    limits: images.Limits,
) -> str:
    """The whole page, as HTML in one file; the same cells make the same bytes.

    Args:
        raw: the folder that the paths in `cells` start from; thumbnails are read from it.
        cells: rows as tables.CELLS; `summary` is theirs.
        limits: nothing beyond them is decoded.
    """
    accepted = cells[cells.status == tables.OK]
    aside = cells[cells.status == tables.QUARANTINED]
    known = accepted[accepted.patient != ""]
    look = images.Limits(min_side=1, max_pixels=limits.max_pixels)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # file names are anybody's
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("audit_page.html.j2").render(
        provenance=provenance,
        summary=summary,
        notes=audit.notes(raw, cells, provenance, summary),
        kinds=_kinds(accepted),
        sizes=_sizes(accepted),
        patients=_patients(known),
        patients_left_out=max(known.patient.nunique() - MOST_BARS, 0),
        swatches=_swatches(raw, known, look),
        sheets={label: _sheet(raw, accepted, label, look) for label in reversed(LABELS)},
        aside=_aside(raw, aside, look),
        left_out=max(len(aside) - MOST_ROWS, 0),
        words={PARASITIZED: "Parasitised", UNINFECTED: "Uninfected"},
    )


def _kinds(accepted: pd.DataFrame) -> list[Kind]:
    infected = set(accepted.patient[(accepted.label == PARASITIZED) & (accepted.patient != "")])
    kinds = []
    for name, rows in (
        ("Infected patients", accepted[accepted.patient.isin(infected)]),
        ("Uninfected controls", accepted[(accepted.patient != "") & ~accepted.patient.isin(infected)]),
        ("Patient unknown", accepted[accepted.patient == ""]),
    ):
        if rows.empty:
            continue
        counts = rows.label.value_counts()
        known = None if name == "Patient unknown" else int(rows.patient.nunique())
        kinds.append(Kind(name, known, int(counts.get(PARASITIZED, 0)), int(counts.get(UNINFECTED, 0))))
    return kinds


def _sizes(accepted: pd.DataFrame) -> Chart | None:
    """How many cells have which longer side; None where all have the same."""
    sides = accepted[["width", "height"]].max(axis=1).to_numpy(dtype=np.int64)
    if len(set(sides)) < 2:
        return None
    step = _round_step(int(np.ptp(sides)), 40)
    edges = np.arange(sides.min() // step * step, sides.max() + step + 1, step)
    positive = (accepted.label == PARASITIZED).to_numpy()
    below = np.histogram(sides[positive], edges)[0]
    above = np.histogram(sides[~positive], edges)[0]
    bars = tuple(
        Bar(place, 1, int(p), int(u), f"{edge} to {edge + step - 1} px: {p:,} parasitised, {u:,} uninfected")
        for place, (edge, p, u) in enumerate(zip(edges[:-1], below, above, strict=True))
    )
    apart = _round_step(int(np.ptp(edges)), 8)
    ticks = tuple((float(place), f"{edge}") for place, edge in enumerate(edges[:-1]) if edge % apart == 0)
    return _chart(bars, ticks)


def _patients(known: pd.DataFrame) -> Chart | None:
    """The cells of each patient, infected ones first, the largest first; None without patients."""
    if known.empty:
        return None
    counts = known.groupby(["patient", "label"]).size().unstack(fill_value=0)
    counts = counts.reindex(columns=list(LABELS), fill_value=0).reset_index()
    counts["control"] = counts[PARASITIZED] == 0
    counts = counts.sort_values(
        ["control", PARASITIZED, UNINFECTED, "patient"], ascending=[True, False, False, True]
    )
    shown = counts.head(MOST_BARS)
    bars = tuple(
        Bar(place, 1, int(p), int(u), f"{patient}: {p:,} parasitised, {u:,} uninfected")
        for place, (patient, p, u) in enumerate(
            zip(shown.patient, shown[PARASITIZED], shown[UNINFECTED], strict=True)
        )
    )
    infected = int((~shown.control).sum())
    ticks = ((0.0, "infected patients"),) if infected else ()
    return _chart(bars, (*ticks, (float(infected), "controls")) if infected < len(bars) else ticks)


def _chart(bars: tuple[Bar, ...], ticks_x: tuple[tuple[float, str], ...]) -> Chart:
    highest = max(bar.parasitized + bar.uninfected for bar in bars)
    step = _round_step(int(highest), 4)
    ticks_y = tuple((float(place), f"{place:,}") for place in range(0, int(highest) + 1, step))
    return Chart(bars, len(bars), highest * 1.04, ticks_x, ticks_y)


def _round_step(span: int, most: int) -> int:
    """The smallest of 1, 2, 5, 10, 20, ... that goes at most `most` times into `span`."""
    steps = [
        factor * power for power in (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000) for factor in (1, 2, 5)
    ]
    return next(step for step in steps if span <= most * step)


def _turns(cells: pd.DataFrame) -> pd.DataFrame:
    """`cells`, sorted by path, as if shuffled; `turn` counts a patient's cells in that order, from 0.

    The lot is a cell's own hash, so that a few cells more or less change little of the page.
    """
    lots = cells.sort_values("sha256", kind="stable")
    return lots.assign(turn=lots.groupby(lots.patient.where(lots.patient != "", lots.path)).cumcount())


def _sheet(raw: Path, accepted: pd.DataFrame, label: str, limits: images.Limits) -> list[Picture]:
    """Cells of one class from as many patients as there are, all at one scale."""
    turns = _turns(accepted[accepted.label == label])
    if turns.empty:
        return []
    chosen = turns.sort_values("turn", kind="stable").path.head(SHEET_CELLS)
    scale = SHEET_SIDE / float(accepted[["width", "height"]].max(axis=1).median())
    return [_picture(raw, path, limits, lambda side: side * scale) for path in chosen]


def _swatches(raw: Path, known: pd.DataFrame, limits: images.Limits) -> list[Swatch]:
    """A patient's stain and light: the mean colour of some cells, the darkest patient first."""
    shown = known[known.patient.isin(sorted(set(known.patient))[:MOST_SWATCHES])]
    turns = _turns(shown)
    chosen = turns[turns.turn < SWATCH_CELLS]
    seen: dict[str, list[Path]] = defaultdict(list)
    for patient, path in zip(chosen.patient.tolist(), chosen.path.tolist(), strict=True):
        seen[patient].append(raw / path)
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda paths: _colour(paths, limits), seen.values())
        means = dict(zip(seen, found, strict=True))
    order = sorted(means, key=lambda patient: (float(means[patient].sum()), patient))
    return [Swatch(patient, "rgb({} {} {})".format(*means[patient].round().astype(int))) for patient in order]


def _colour(paths: list[Path], limits: images.Limits) -> Colour:
    """The mean RGB inside cells, each counting as much as any other, float64 (3,)."""
    colours = []
    for path in paths:
        # Every fourth pixel either way tells the same colour, in a sixteenth of the time.
        pixels = images.read(path, limits).pixels[::4, ::4]
        inside = pixels[pixels.max(axis=2) > _DARKEST_OF_CELL]
        colours.append(inside.mean(axis=0) if len(inside) else np.zeros(3))
    mean: Colour = np.mean(colours, axis=0)
    return mean


def _aside(raw: Path, aside: pd.DataFrame, limits: images.Limits) -> list[Aside]:
    shown = aside.head(MOST_ROWS)
    rows: list[Aside] = []
    for path, width, height, reason in zip(shown.path, shown.width, shown.height, shown.reason, strict=True):
        if len(rows) < MOST_THUMBNAILS:
            picture = _picture(raw, path, limits, lambda side: min(side, SHEET_SIDE))
        else:
            picture = Picture("", 0, 0, path, "")
        size = "" if pd.isna(width) else f"{width:,} by {height:,} px"
        rows.append(Aside(picture, size, reason))
    return rows


def _picture(raw: Path, path: str, limits: images.Limits, shown: Callable[[float], float]) -> Picture:
    """The image embedded as JPEG; `shown` gives the longer side on the page for that in the file."""
    try:
        crop = images.read(raw / path, limits)
    except images.Unreadable:
        return Picture("", 0, 0, path, "")
    factor = shown(max(crop.width, crop.height)) / max(crop.width, crop.height)
    width, height = max(round(crop.width * factor), 1), max(round(crop.height * factor), 1)
    image = Image.fromarray(crop.pixels)
    # Half as many again, for screens with more pixels than CSS counts; never more than there are.
    image.thumbnail((width * 3 // 2 + 1, height * 3 // 2 + 1), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=88)
    uri = "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
    return Picture(uri, width, height, path, f"{path}, {crop.width} by {crop.height} px")
