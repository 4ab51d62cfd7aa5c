"""Which patient, and so which cell, is trained on, tuned on and tested on.

A patient's cells resemble each other (one stain, one microscope, one illumination), so cells of one
patient on two sides let a model recognise the patient. Whole patients are drawn instead, infected
ones and controls apart. An infected patient has cells of both classes: drawing class by class would
put one patient on two sides again.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import splitfolders

from malaria import params, tables
from malaria.errors import UserError
from malaria.labels import LABELS, PARASITIZED
from malaria.tables import SPLIT_NAMES, TEST, TRAIN, VAL

MOST_DRAWS = 1000


@dataclass(frozen=True)
class Side:
    """What lies on one side of the split; shares are of all accepted cells, in [0, 1]."""

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


def with_patients(cells: pd.DataFrame) -> pd.DataFrame:
    """The accepted rows of `cells`; a cell whose patient nobody knows becomes a patient of its own."""
    accepted = cells[cells.status == tables.OK].reset_index(drop=True)
    own = "cell " + accepted.path
    return accepted.assign(patient=accepted.patient.where(accepted.patient != "", own))


def split(cells: pd.DataFrame, settings: params.Split) -> tuple[pd.DataFrame, Summary]:
    """Assign every accepted cell to train, val or test.

    Args:
        cells: rows as tables.CELLS.

    Returns:
        Rows as tables.SPLITS, and how they came about.

    Raises:
        UserError: too few patients; no draw fits; the given file does not; a side lacks a class.
    """
    accepted = with_patients(cells)
    given = read_assignment(Path(settings.file), settings)
    if given is not None:
        missing = sorted(set(accepted.patient) - set(given))
        if missing:
            raise UserError(
                f"{settings.file} says nothing of {len(missing)} of the data's patients, {missing[0]} among "
                "them: add their rows, or empty split.file's table to have the split drawn."
            )
        draw, sides = 0, accepted.patient.map(given)
        if VAL not in set(sides):
            draw, sides = _hold_out_val(accepted, sides, settings)
    else:
        draw, sides = _draw(accepted, settings)
    assigned = accepted.assign(split=sides)[list(tables.SPLITS)]
    _check_classes(assigned)
    if settings.unit == "patient":
        check_disjoint(assigned)
    by_patient = settings.unit == "patient" and not assigned.patient.str.startswith("cell ").any()
    return assigned, Summary(settings.unit, by_patient, draw, _sides(assigned))


def check_disjoint(assigned: pd.DataFrame) -> None:
    """Raise UserError if a patient's cells lie on more than one side."""
    sides = assigned.groupby("patient").split.nunique()
    torn = sorted(sides[sides > 1].index)
    if torn:
        raise UserError(
            f"data/splits.csv puts {len(torn)} patients on two sides, {torn[0]} among them: "
            "run `dvc repro -f split`."
        )


def summary_content(summary: Summary) -> dict[str, object]:
    """`summary` as plain values for JSON; shares rounded to four places."""
    content = asdict(summary)
    for side in content["sides"].values():
        side.update({key: round(side[key], 4) for key in ("share", "share_of_parasitized")})
    return content


def folds_in(file: Path) -> list[int]:
    """The folds that a file of patient,fold names, in order; empty where it names none.

    Raises:
        UserError: there is no such table.
    """
    return sorted({int(fold) for fold in _read(file).get("fold", ()) if fold.isdigit()})


def _read(file: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(file, dtype="str", keep_default_na=False)
    except FileNotFoundError:
        raise UserError(f"params.yaml: split.file is {file}, but there is no such file.") from None
    except (ValueError, OSError):
        raise UserError(f"{file} (split.file) is no CSV table: it needs the columns patient,split.") from None


def read_assignment(file: Path, settings: params.Split) -> dict[str, str] | None:
    """The user's own assignment of patients, or None where `file` has no rows.

    `file` has the columns patient,split (train, val or test) or patient,fold (0, 1, ...). Of folds,
    split.fold is tested and the others are trained on; val is drawn from those later.
    """
    table = _read(file)
    columns = sorted(table.columns)
    if columns not in (["patient", "split"], ["fold", "patient"]):
        raise UserError(
            f"{file} (split.file) has the columns {', '.join(table.columns)}, but needs patient,split or "
            "patient,fold."
        )
    if table.empty:
        return None
    if settings.unit == "image":
        raise UserError(
            "params.yaml: split.unit is image, but split.file splits by patient: drop one of them."
        )
    twice = table.patient[table.patient.duplicated()]
    if len(twice):
        raise UserError(f"{file} (split.file) has patient {twice.iloc[0]} twice: keep one row a patient.")
    if "split" in table:
        if settings.folds:
            raise UserError(
                f"params.yaml: split.folds is {settings.folds}, but {file} (split.file) gives one split, the "
                "same for every fold: set split.folds to 0, or give a file of patient,fold."
            )
        unknown = table.split[~table.split.isin(SPLIT_NAMES)]
        if len(unknown):
            raise UserError(
                f"{file} (split.file) puts a patient into {unknown.iloc[0]!r}, but a split "
                "is train, val or test."
            )
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
        return _first_fit(accepted, settings, dict(zip(SPLIT_NAMES, settings.ratio, strict=True)))
    # Every fold must fit, since a run of another fold makes the same draw.
    folds = {f"{TEST} {fold}": 1 / settings.folds for fold in range(settings.folds)}
    draw, sides = _first_fit(accepted, settings, folds)
    tested = sides == f"{TEST} {settings.fold}"
    _, sides = _hold_out_val(accepted, pd.Series(np.where(tested, TEST, TRAIN)), settings)
    return draw, sides


def _hold_out_val(accepted: pd.DataFrame, sides: pd.Series, settings: params.Split) -> tuple[int, pd.Series]:
    """Move a drawn share of the train patients to val: split.ratio's val share of all cells."""
    rest = accepted[(sides == TRAIN).to_numpy()]
    share = min(settings.ratio[1] * len(accepted) / max(len(rest), 1), 0.5)
    draw, drawn = _first_fit(rest.reset_index(drop=True), settings, {TRAIN: 1 - share, VAL: share})
    sides = sides.copy()
    sides.loc[rest.index] = drawn.to_numpy()
    return draw, sides


def _first_fit(
    accepted: pd.DataFrame, settings: params.Split, shares: dict[str, float]
) -> tuple[int, pd.Series]:
    """Draw until cells and parasitised cells both have `shares`, within the tolerance.

    Returns:
        The number of the draw, from 1, and the drawn side of each row of `accepted`.
    """
    units = accepted.patient if settings.unit == "patient" else accepted.path
    names, of_unit = np.unique(units.to_numpy(dtype=object), return_inverse=True)
    if len(names) < len(shares):
        raise UserError(
            f"The data has {len(names)} {settings.unit}s, too few for {len(shares)} sides: bring more "
            "patients, or set split.unit to image in params.yaml."
        )
    positive = (accepted.label == PARASITIZED).to_numpy()
    cells = np.bincount(of_unit)
    parasitized = np.bincount(of_unit, weights=positive)
    wanted = np.array(list(shares.values()))
    nearest = np.inf
    with _urns(names, parasitized > 0) as urns:
        for draw in range(1, MOST_DRAWS + 1):
            side = _lots(urns, list(shares.values()), settings.seed * MOST_DRAWS + draw - 1, len(names))
            distance = max(
                np.abs(
                    np.bincount(side, weights=count, minlength=len(wanted)) / max(count.sum(), 1) - wanted
                ).max()
                for count in (cells, parasitized)
            )
            if distance <= settings.tolerance + 1e-9:
                return draw, pd.Series(np.array(list(shares), dtype=object)[side[of_unit]])
            nearest = min(nearest, distance)
    raise UserError(
        f"params.yaml: none of {MOST_DRAWS:,} draws gave the shares of cells and of parasitised cells within "
        f"split.tolerance, {settings.tolerance:g} (the nearest was off by {nearest:.3f}): raise it, change "
        "split.ratio, or bring more patients."
    )


@contextmanager
def _urns(names: np.ndarray, infected: np.ndarray) -> Iterator[tuple[Path, Path]]:
    """Two folders, infected and control, with an empty file a unit, named by its number.

    split-folders draws files of folders; this hands it the units as such.
    """
    with tempfile.TemporaryDirectory() as folder:
        urns = (Path(folder, "control"), Path(folder, "infected"))
        for urn in urns:
            urn.mkdir()
        for number in range(len(names)):
            Path(urns[int(infected[number])], f"{number:08}").touch()
        yield urns


def _lots(urns: tuple[Path, Path], shares: list[float], seed: int, units: int) -> np.ndarray:
    """The side drawn for each unit, int64 (units,): split-folders' shuffle, cut by the shares."""
    side = np.zeros(units, dtype=np.int64)
    cuts = np.cumsum(shares)[:-1]
    for urn in urns:
        shuffled = np.array([int(file.name) for file in splitfolders.setup_files(urn, seed)], dtype=np.int64)
        for index, part in enumerate(np.split(shuffled, np.rint(cuts * len(shuffled)).astype(int))):
            side[part] = index
    return side


def _check_classes(assigned: pd.DataFrame) -> None:
    for name in SPLIT_NAMES:
        labels = set(assigned.label[assigned.split == name])
        for label in LABELS:
            if label not in labels:
                raise UserError(
                    f"The split leaves {name} without a {label} cell: change split.seed or split.ratio in "
                    "params.yaml, or bring more patients."
                )


def _sides(assigned: pd.DataFrame) -> dict[str, Side]:
    positive = assigned.label == PARASITIZED
    sides = {}
    for name in SPLIT_NAMES:
        here = assigned.split == name
        sides[name] = Side(
            patients=int(assigned.patient[here].nunique()),
            cells=int(here.sum()),
            parasitized=int((here & positive).sum()),
            share=float(here.mean()),
            share_of_parasitized=float((here & positive).sum() / positive.sum()),
        )
    return sides
