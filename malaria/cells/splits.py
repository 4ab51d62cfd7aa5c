"""Which patient, and so which cell, is trained on, tuned on and tested on.

A patient's cells resemble each other (one stain, one microscope, one illumination), so cells of one
patient on two sides let a model recognise the patient. Whole patients are drawn instead, infected
ones and controls apart. An infected patient has cells of both classes: drawing class by class would
put one patient on two sides again.
"""

import io
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from malaria import params, tables
from malaria.cells import patients
from malaria.errors import UserError
from malaria.labels import LABELS, PARASITIZED
from malaria.tables import SPLIT_NAMES, TEST, TRAIN, VAL

MOST_DRAWS = 1000

# Takes folders of units, a seed and the shares of the sides; gives the side of each unit, by its number.
Draw = Callable[[Path, int, Sequence[float]], dict[int, str]]


@dataclass(frozen=True)
class Side:
    """What lies on one side of the split; `patients` are the known ones, shares are of all accepted cells, in
    [0, 1], to four places.
    """

    patients: int
    cells: int
    parasitized: int
    share: float
    share_of_parasitized: float


@dataclass(frozen=True)
class Summary:
    """How a split came about: by `draw` number so and so (0 for a file), in whole patients or not."""

    unit: str
    by_patient: bool
    draw: int
    sides: dict[str, Side]


def split(cells: pd.DataFrame, settings: params.Split) -> tuple[pd.DataFrame, Summary]:
    """Assign every accepted cell to train, val or test.

    Args:
        cells: rows as tables.CELLS.

    Returns:
        Rows as tables.SPLITS, and how they came about.

    Raises:
        UserError: too few patients; no draw fits; the given file does not; a side lacks a class.
    """
    accepted = patients.with_own(cells)
    given = read_assignment(Path(settings.file), settings)
    came = sides_of(accepted)
    if given is not None:
        missing = sorted(set(accepted.patient) - set(given))
        if missing:
            raise UserError(
                f"{settings.file} says nothing of {len(missing)} of the data's patients, {missing[0]} among "
                "them: add their rows, or empty split.file's table to have the split drawn."
            )
        draw, sides = 0, accepted.patient.map(given)
    elif came is not None and not settings.folds:
        _check_kept(accepted, came, settings)
        draw, sides = 0, came
    else:
        draw, sides = _draw(accepted, settings)
    if not draw and VAL not in set(sides):
        draw, sides = _hold_out_val(accepted, sides, settings)
    assigned = accepted.assign(split=sides)[list(tables.SPLITS)]
    _check_classes(assigned)
    if settings.unit == "patient":
        check_disjoint(assigned)
    by_patient = settings.unit == "patient" and bool(patients.known(assigned.patient).all())
    return assigned, Summary(settings.unit, by_patient, draw, _sides(assigned))


def sides_of(cells: pd.DataFrame) -> "pd.Series[str] | None":
    """The side that each of `cells` came in, a folder below its class; None where they came in one."""
    parts = cells.path.str.split("/", n=2, expand=True).reindex(columns=range(3))
    return parts[1] if (parts[1].isin(SPLIT_NAMES) & parts[2].notna()).all() else None


def _check_kept(accepted: pd.DataFrame, came: "pd.Series[str]", settings: params.Split) -> None:
    """Raise UserError where the split that cells came in cannot be kept."""
    if TEST not in set(came):
        raise UserError(
            "The cells come in train and val alone: add a folder test, or put all cells into the same class "
            "folders, to have the split drawn."
        )
    torn = accepted.patient[came.groupby(accepted.patient).transform("nunique") > 1]
    if settings.unit == "patient" and len(torn):
        raise UserError(
            f"The folders train, val and test that the cells come in share {torn.nunique():,} patients, such "
            f"as {torn.iloc[0]}: put all cells into the same class folders to have a split by patient drawn, "
            "or set split.unit to image to keep this one, whose figures say nothing of new patients."
        )


def check_disjoint(assigned: pd.DataFrame) -> None:
    """Raise UserError if a patient's cells lie on more than one side."""
    sides = assigned.groupby("patient").split.nunique()
    torn = sorted(sides[sides > 1].index)
    if torn:
        raise UserError(
            f"{len(torn)} patients are on two sides, such as {torn[0]}: run `dvc repro -f split`."
        )


def folds_in(file: Path) -> list[int]:
    """The folds that a file of patient,fold names, in order; empty where it names none.

    Raises:
        UserError: there is no such table.
    """
    return sorted({int(fold) for fold in _read(file).get("fold", ()) if fold.isdigit()})


def _read(file: Path) -> pd.DataFrame:
    return tables.read_given(file, "patient,split", "patient,fold", key="split.file")


def read_assignment(file: Path, settings: params.Split) -> dict[str, str] | None:
    """The user's own assignment of patients, or None where `file` has no rows.

    `file` has the columns patient,split (train, val or test) or patient,fold (0, 1, ...). Of folds,
    split.fold is tested and the others are trained on; val is drawn from those later.
    """
    table = _read(file)
    if table.empty:
        return None
    if settings.unit == "image":
        raise UserError("params.yaml: split.unit is image, but split.file splits by patient: drop one.")
    twice = table.patient[table.patient.duplicated()]
    if len(twice):
        raise UserError(f"{file} (split.file) has patient {twice.iloc[0]} twice: keep one row for each.")
    if "split" in table:
        if settings.folds:
            raise UserError(
                f"params.yaml: split.folds is {settings.folds}, but {file} (split.file) gives one split, the "
                "same for every fold: set split.folds to 0, or give a file of patient,fold."
            )
        unknown = table.split[~table.split.isin(SPLIT_NAMES)]
        if len(unknown):
            raise UserError(f"{file} has the split {unknown.iloc[0]!r}, but it must be train, val or test.")
        return dict(zip(table.patient, table.split, strict=True))
    if str(settings.fold) not in set(table.fold):
        raise UserError(
            f"params.yaml: split.fold is {settings.fold}, but {file} (split.file) has the folds "
            f"{', '.join(sorted(set(table.fold)))}."
        )
    sides = np.where(table.fold == str(settings.fold), TEST, TRAIN)
    return dict(zip(table.patient, sides, strict=True))


def _draw(accepted: pd.DataFrame, settings: params.Split) -> tuple[int, pd.Series]:
    """The first draw whose shares fit `settings.ratio` (or, with folds, equal folds)."""
    if not settings.folds:
        return _first_fit(accepted, settings, dict(zip(SPLIT_NAMES, settings.ratio, strict=True)), _by_ratio)
    # Every fold must fit, since a run of another fold makes the same draw.
    equal = {str(fold): 1 / settings.folds for fold in range(settings.folds)}
    draw, folds = _first_fit(accepted, settings, equal, _by_folds)
    sides = pd.Series(np.where(folds == str(settings.fold), TEST, TRAIN), accepted.index)
    return draw, _hold_out_val(accepted, sides, settings)[1]


def _hold_out_val(accepted: pd.DataFrame, sides: pd.Series, settings: params.Split) -> tuple[int, pd.Series]:
    """Move a drawn share of the train patients to val: split.ratio's val share of all cells."""
    rest = accepted[(sides == TRAIN).to_numpy()]
    share = min(settings.ratio[1] * len(accepted) / max(len(rest), 1), 0.5)
    draw, drawn = _first_fit(rest, settings, {TRAIN: 1 - share, VAL: share}, _by_ratio)
    return draw, sides.where(sides != TRAIN, drawn.reindex(sides.index))


def _first_fit(
    accepted: pd.DataFrame, settings: params.Split, shares: dict[str, float], draw_units: Draw
) -> tuple[int, "pd.Series[str]"]:
    """Draw until cells and parasitised cells both have `shares`, within the tolerance.

    Returns:
        The number of the draw, from 1, and the drawn side of each row of `accepted`.
    """
    parasitized = accepted.label == PARASITIZED
    units = accepted.patient if settings.unit == "patient" else accepted.path
    counts = parasitized.groupby(units.to_numpy()).agg(["size", "sum"])
    wanted = pd.Series(shares)
    if len(counts) < len(wanted):
        raise UserError(
            f"The data has {len(counts)} {settings.unit}s, too few for {len(wanted)} sides: bring more "
            "patients, or set split.unit to image in params.yaml."
        )
    nearest = np.inf
    with _unit_folders(counts["sum"] > 0) as folders:
        for draw in range(1, MOST_DRAWS + 1):
            drawn = draw_units(folders, settings.seed * MOST_DRAWS + draw - 1, list(shares.values()))
            side = pd.Series(drawn).sort_index().set_axis(counts.index)
            got = counts.groupby(side).sum().reindex(wanted.index, fill_value=0) / counts.sum().clip(lower=1)
            distance = got.sub(wanted, axis=0).abs().to_numpy().max()
            if distance <= settings.tolerance + 1e-9:
                return draw, units.map(side)
            nearest = min(nearest, distance)
    raise UserError(
        f"params.yaml: none of {MOST_DRAWS:,} draws gave the shares of cells and of parasitised cells within "
        f"split.tolerance, {settings.tolerance:g} (the nearest was off by {nearest:.3f}): raise it, change "
        "split.ratio, or bring more patients."
    )


@contextmanager
def _unit_folders(infected: "pd.Series[bool]") -> Iterator[Path]:
    """A folder with two, infected and control, that hold an empty file for each unit, named by its number."""
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("control", "infected"):
            Path(folder, kind).mkdir()
        for number, has_parasites in enumerate(infected):
            Path(folder, "infected" if has_parasites else "control", f"{number:08}").touch()
        yield Path(folder)


def _by_ratio(folders: Path, seed: int, shares: Sequence[float]) -> dict[int, str]:
    """The side that split-folders draws for each unit: train, val or, of three shares, test."""
    import splitfolders

    with tempfile.TemporaryDirectory() as drawn, redirect_stderr(io.StringIO()):
        for kind in folders.iterdir():
            # Of a few units split-folders would round two shares down, and give all the rest to the last.
            count = max(len(list(kind.iterdir())), 1)
            whole = np.diff(np.rint(np.cumsum(shares) * count), prepend=0) / count
            splitfolders.ratio(kind, drawn, seed, tuple(whole + 1e-9), move="symlink")
        return {int(file.name): file.parent.name for file in Path(drawn).glob("*/*")}


def _by_folds(folders: Path, seed: int, shares: Sequence[float]) -> dict[int, str]:
    """The fold that split-folders draws for each unit, from 0."""
    import splitfolders

    with tempfile.TemporaryDirectory() as drawn, redirect_stderr(io.StringIO()):
        splitfolders.kfold(folders, drawn, seed, len(shares), move="symlink")
        names = Path(drawn).glob("fold_*/val/*/*")
        return {int(file.name): str(int(file.parts[-4].removeprefix("fold_")) - 1) for file in names}


def _check_classes(assigned: pd.DataFrame) -> None:
    for name, label in itertools.product(SPLIT_NAMES, LABELS):
        if not ((assigned.split == name) & (assigned.label == label)).any():
            raise UserError(
                f"The split leaves {name} without a {label} cell: change split.seed or split.ratio in "
                "params.yaml, or bring more patients."
            )


def _sides(assigned: pd.DataFrame) -> dict[str, Side]:
    parasitized = assigned.label == PARASITIZED
    known = assigned.patient.where(patients.known(assigned.patient))
    sides = {}
    for name in SPLIT_NAMES:
        here = assigned.split == name
        positive = int((here & parasitized).sum())
        sides[name] = Side(
            patients=int(known[here].nunique()),
            cells=int(here.sum()),
            parasitized=positive,
            share=round(float(here.mean()), 4),
            share_of_parasitized=round(positive / int(parasitized.sum()), 4),
        )
    return sides
