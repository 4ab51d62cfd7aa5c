"""Split the cells into train, val and test by patient.

A patient's cells resemble each other (one stain, one microscope, one illumination), so cells of one
patient on two sides let a model recognise the patient. Whole patients are drawn instead, infected
ones and controls separately. An infected patient has cells of both classes: a draw for each class would
put one patient on two sides again.

For your own cells, whose patients may change, `Record` records each patient's side: patients keep their side
when others come or go, and only new ones are drawn.
"""

import functools
import io
import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import TypeAdapter

from malaria import params, tables
from malaria.cells import patients
from malaria.errors import UserError
from malaria.labels import LABELS, PARASITIZED
from malaria.tables import SPLIT_NAMES, TEST, TRAIN, VAL

MAX_DRAWS = 1000

# Takes a folder of units, a seed and the shares of the sides; returns the side of each unit, by its number.
Draw = Callable[[Path, int, Sequence[float]], dict[int, str]]


@dataclass(frozen=True)
class Side:
    """The size of one side of the split.

    patients: only known ones. share: of all accepted cells. share_of_parasitized: of all parasitised ones.
    Shares are in [0, 1], rounded to four places.
    """

    patients: int
    cells: int
    parasitized: int
    share: float
    share_of_parasitized: float


@dataclass(frozen=True)
class Summary:
    """How a split was made.

    unit: patient or image. by_patient: whether each side has whole patients, all of them known. draw: the
    number of the draw that fits, from 1; 0 if nothing was drawn. If sides are kept: `came` are the patients
    of the last addition, which `draw` is about, and `gone` those who have no cells any more; both are sorted.
    """

    unit: str
    by_patient: bool
    draw: int
    sides: dict[str, Side]
    came: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()


def split(
    cells: pd.DataFrame, settings: params.Split, side_of: Mapping[str, str] | None = None
) -> tuple[pd.DataFrame, Summary]:
    """Assign every accepted cell to train, val or test.

    Args:
        cells: rows as tables.CELLS.
        side_of: the sides of patients who are not drawn; may name patients without cells.

    Returns:
        Rows as tables.SPLITS, and how the split was made.

    Raises:
        UserError: there are too few patients, no draw fits, a given split does not, or a side lacks a class.
    """
    accepted = patients.accepted(cells)
    by_file = read_assignment(Path(settings.file), settings)
    by_folder = sides_by_folder(accepted)
    if by_file is not None:
        missing = sorted(set(accepted.patient) - set(by_file))
        if missing:
            raise UserError(
                f"{settings.file} says nothing of {len(missing)} of the data's patients, {missing[0]} among "
                "them: add their rows, or empty split.file's table to have the split drawn."
            )
        draw, sides = 0, accepted.patient.map(by_file)
    elif by_folder is not None and not settings.folds:
        if TEST not in set(by_folder):
            raise UserError(
                "The cells come in train and val alone: add a folder test, or put all cells into the same "
                "class folders, to have the split drawn."
            )
        draw, sides = 0, by_folder
    else:
        draw, sides = _draw(accepted, settings, side_of or {})
    if settings.unit == "patient":
        check_disjoint(accepted.assign(split=sides))
    if not draw and VAL not in set(sides):
        draw, sides = _hold_out_val(accepted, sides, settings)
    assigned = accepted.assign(split=sides)[list(tables.SPLITS)]
    _check_classes(assigned)
    by_patient = settings.unit == "patient" and bool(patients.is_known(assigned.patient).all())
    return assigned, Summary(settings.unit, by_patient, draw, _sides(assigned))


def sides_by_folder(cells: pd.DataFrame) -> "pd.Series[str] | None":
    """The side of each cell by the folder below its class folder; None unless all have such a folder."""
    parts = cells.path.str.split("/", n=2, expand=True).reindex(columns=range(3))
    return parts[1] if (parts[1].isin(SPLIT_NAMES) & parts[2].notna()).all() else None


def check_disjoint(assigned: pd.DataFrame) -> None:
    """Raise UserError if a patient has cells on several sides, as a split that comes with cells may have."""
    sides = assigned.groupby("patient").split.nunique()
    shared = sorted(sides[sides > 1].index)
    if shared:
        raise UserError(
            f"The folders train, val and test that the cells come in share {len(shared):,} patients, such as "
            f"{shared[0]}: put all cells into the same class folders to have a split by patient drawn, or "
            "set split.unit to image to keep this one, whose figures say nothing about new patients."
        )


def folds_in(file: Path) -> list[int]:
    """The folds in a file with the columns patient,fold, sorted; empty if it has none.

    Raises:
        UserError: there is no such table.
    """
    return sorted({int(fold) for fold in _read(file).get("fold", ()) if fold.isdigit()})


def _read(file: Path) -> pd.DataFrame:
    """Read the table of split.file: patient, and split or fold, all as texts."""
    return tables.read_user_table(file, "patient,split", "patient,fold", key="split.file")


def read_assignment(file: Path, settings: params.Split) -> dict[str, str] | None:
    """The side of each patient in split.file, or None if `file` has no rows.

    `file` has the columns patient,split (train, val or test) or patient,fold (0, 1, ...). With folds,
    split.fold is test and the others are train; val is drawn from train later.

    Raises:
        UserError: the table has a patient twice or an unknown side, or contradicts unit, folds or fold.
    """
    table = _read(file)
    if table.empty:
        return None
    if settings.unit == "image":
        raise UserError("params.yaml: split.unit is image, but split.file splits by patient: drop one.")
    repeated = table.patient[table.patient.duplicated()]
    if len(repeated):
        raise UserError(f"{file} (split.file) has patient {repeated.iloc[0]} twice: keep one row for each.")
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


def _draw(
    accepted: pd.DataFrame, settings: params.Split, side_of: Mapping[str, str]
) -> tuple[int, pd.Series]:
    """The first draw whose shares fit `settings.ratio` (or, with folds, equal folds)."""
    if not settings.folds:
        shares = dict(zip(SPLIT_NAMES, settings.ratio, strict=True))
        return _first_fit(accepted, settings, shares, _by_ratio, side_of)
    # Every fold must fit, because a run on another fold uses the same draw.
    shares = {str(fold): 1 / settings.folds for fold in range(settings.folds)}
    draw, folds = _first_fit(accepted, settings, shares, _by_folds)
    sides = pd.Series(np.where(folds == str(settings.fold), TEST, TRAIN), accepted.index)
    return draw, _hold_out_val(accepted, sides, settings)[1]


def _hold_out_val(accepted: pd.DataFrame, sides: pd.Series, settings: params.Split) -> tuple[int, pd.Series]:
    """Move a drawn share of the train patients to val: split.ratio's val share of all cells."""
    train = accepted[(sides == TRAIN).to_numpy()]
    share = min(settings.ratio[1] * len(accepted) / max(len(train), 1), 0.5)
    draw, new_sides = _first_fit(train, settings, {TRAIN: 1 - share, VAL: share}, _by_ratio)
    return draw, sides.where(sides != TRAIN, new_sides.reindex(sides.index))


def _first_fit(
    accepted: pd.DataFrame,
    settings: params.Split,
    shares: dict[str, float],
    draw_units: Draw,
    side_of: Mapping[str, str] | None = None,
) -> tuple[int, "pd.Series[str]"]:
    """Draw until cells and parasitised cells both have `shares`, within the tolerance.

    Args:
        side_of: the sides of units that are not drawn; the others are drawn by the shares that these leave.

    Returns:
        The number of the draw, from 1, and the drawn side of each row of `accepted`.
    """
    parasitized = accepted.label == PARASITIZED
    units = accepted.patient if settings.unit == "patient" else accepted.path
    counts = parasitized.groupby(units.to_numpy()).agg(["size", "sum"])
    target = pd.Series(shares)
    fixed = pd.Series(side_of or {}, dtype="str").reindex(counts.index).dropna()
    new = counts.drop(fixed.index)
    if len(fixed):
        fixed_cells = counts["size"].groupby(fixed).sum().reindex(target.index, fill_value=0)
        lacking = (target * counts["size"].sum() - fixed_cells).clip(lower=0)
        shares = dict(zip(shares, lacking / lacking.sum(), strict=True)) if lacking.sum() else shares
        draw_units = functools.partial(_by_ratio, by_chance=True)
    elif len(counts) < len(target):
        raise UserError(
            f"The data has {len(counts)} {settings.unit}s, too few for {len(target)} sides: bring more "
            "patients, or set split.unit to image in params.yaml."
        )
    nearest = np.inf
    with tempfile.TemporaryDirectory() as folder:
        _write_units(Path(folder), new["sum"] > 0)
        for draw in range(1, MAX_DRAWS + 1 if len(new) else 2):
            drawn = draw_units(Path(folder), settings.seed * MAX_DRAWS + draw - 1, list(shares.values()))
            sides = pd.concat([fixed, pd.Series(drawn, dtype="str").sort_index().set_axis(new.index)])
            sums = counts.groupby(sides).sum().reindex(target.index, fill_value=0)
            distance = (sums / counts.sum().clip(lower=1)).sub(target, axis=0).abs().to_numpy().max()
            if distance <= settings.tolerance + 1e-9:
                return draw, units.map(sides)
            nearest = min(nearest, distance)
    raise _no_fit(len(fixed), len(new), settings.tolerance, nearest)


def _no_fit(fixed: int, new: int, tolerance: float, nearest: float) -> UserError:
    """The error if no draw of the `new` units, beside the `fixed` ones, comes nearer than `nearest`."""
    draws, remedy = f"none of {MAX_DRAWS:,} draws", "change split.ratio"
    if fixed:
        draws = f"with {fixed} patients on the sides that they had, no draw of the {new} new ones"
        remedy = "give split.seed another number to have all of them drawn anew"
    return UserError(
        f"params.yaml: {draws} gives the shares of cells and of parasitised cells within split.tolerance, "
        f"{tolerance:g} (the nearest was off by {nearest:.3f}): raise it, bring more patients, or {remedy}."
    )


def _write_units(folder: Path, infected: "pd.Series[bool]") -> None:
    """Fill a folder for split-folders: infected/ and control/ get an empty file for each unit's number."""
    for kind in ("control", "infected"):
        (folder / kind).mkdir()
    for number, has_parasites in enumerate(infected):
        (folder / ("infected" if has_parasites else "control") / f"{number:08}").touch()


def _by_ratio(folders: Path, seed: int, shares: Sequence[float], by_chance: bool = False) -> dict[int, str]:
    """The side that split-folders draws for each unit: train, val or, with three shares, test.

    Args:
        by_chance: round the number of units on a side up or down by chance, so that even a single unit may
            come to any side; otherwise round to the nearest.
    """
    chance = np.random.default_rng(seed).uniform(-0.5, 0.5) if by_chance else 0.0
    import splitfolders

    with tempfile.TemporaryDirectory() as out, redirect_stderr(io.StringIO()):
        for kind in folders.iterdir():
            # Shares of whole units: split-folders rounds two shares down, and gives the rest to the last one.
            count = max(len(list(kind.iterdir())), 1)
            ends = np.rint(np.cumsum(shares) * count + chance).clip(0, count)
            ends[-1] = count
            whole_shares = np.diff(ends, prepend=0) / count
            splitfolders.ratio(kind, out, seed, tuple(whole_shares + 1e-9), move="symlink")
        return {int(file.name): file.parent.name for file in Path(out).glob("*/*")}


def _by_folds(folders: Path, seed: int, shares: Sequence[float]) -> dict[int, str]:
    """The fold that split-folders draws for each unit, from 0."""
    import splitfolders

    with tempfile.TemporaryDirectory() as out, redirect_stderr(io.StringIO()):
        splitfolders.kfold(folders, out, seed, len(shares), move="symlink")
        files = Path(out).glob("fold_*/val/*/*")
        return {int(file.name): str(int(file.parts[-4].removeprefix("fold_")) - 1) for file in files}


def _check_classes(assigned: pd.DataFrame) -> None:
    """Raise UserError if a side lacks a class."""
    for name, label in itertools.product(SPLIT_NAMES, LABELS):
        if not ((assigned.split == name) & (assigned.label == label)).any():
            raise UserError(
                f"The split leaves {name} without a {label} cell: change split.seed or split.ratio in "
                "params.yaml, or bring more patients."
            )


def _sides(assigned: pd.DataFrame) -> dict[str, Side]:
    """The size of each side, by its name."""
    known = assigned.patient.where(patients.is_known(assigned.patient))
    cells = assigned.assign(known=known, parasitized=assigned.label == PARASITIZED)
    sides = cells.groupby("split").agg(
        patients=("known", "nunique"), cells=("path", "size"), parasitized=("parasitized", "sum")
    )
    _, all_cells, all_positive = map(int, sides.sum())
    return {
        name: Side(known, count, positive, round(count / all_cells, 4), round(positive / all_positive, 4))
        for name, known, count, positive in sides.loc[list(SPLIT_NAMES)].itertuples()
    }


@dataclass(frozen=True)
class Round:
    """Patients who were added together, by the side that the draw of this number gave them; sorted."""

    draw: int
    sides: dict[str, list[str]]


@dataclass(frozen=True)
class Record:
    """All patients who were ever drawn, with `ratio` and `seed`. Patients who leave stay recorded."""

    ratio: tuple[float, ...] = ()
    seed: int = 0
    rounds: tuple[Round, ...] = ()

    @property
    def side_of(self) -> dict[str, str]:
        """The side of each patient."""
        sides = itertools.chain.from_iterable(added.sides.items() for added in self.rounds)
        return {patient: side for side, names in sides for patient in names}


def read_record(file: Path) -> Record:
    """Read a record, which was written as JSON; an empty one if the file is missing.

    Raises:
        UserError: the file is damaged, has a patient twice, or has an unknown side.
    """
    try:
        kept = TypeAdapter(Record).validate_json(file.read_bytes())
        count = sum(len(names) for added in kept.rounds for names in added.sides.values())
        if len(kept.side_of) < count or not set(kept.side_of.values()) <= set(SPLIT_NAMES):
            raise ValueError("a patient is there twice, or on no side")
    except FileNotFoundError:
        return Record()
    except (OSError, ValueError):
        raise UserError(
            f"{file} is damaged: restore it (`git checkout {file}`), or remove it to have all patients drawn "
            "anew."
        ) from None
    return kept


def extend(cells: pd.DataFrame, settings: params.Split, kept: Record) -> tuple[pd.DataFrame, Summary, Record]:
    """Split as `split` does, but patients in `kept` keep their side; also returns `kept` with the new ones.

    A split by image, into folds, by split.file or by the folders of the cells ignores `kept` and returns it
    as it is. With another ratio or seed all patients are drawn again.
    """
    by_folder = sides_by_folder(cells[cells.status == tables.OK])
    has_split = by_folder is not None or not _read(Path(settings.file)).empty
    if settings.unit == "image" or settings.folds or has_split:
        return *split(cells, settings), kept
    if (kept.ratio, kept.seed) != (settings.ratio, settings.seed):
        kept = Record(settings.ratio, settings.seed)
    assigned, summary = split(cells, settings, kept.side_of)
    sides = assigned.drop_duplicates("patient").set_index("patient").split
    new = sides[~sides.index.isin(kept.side_of)]
    if len(new):
        patients_of = {name: sorted(new.index[new == name]) for name in SPLIT_NAMES}
        kept = replace(kept, rounds=(*kept.rounds, Round(summary.draw, patients_of)))
    # About the last round, so that another run on the same cells reports the same.
    last = kept.rounds[-1]
    came = sorted(itertools.chain(*last.sides.values())) if len(kept.rounds) > 1 else ()
    gone = sorted(set(kept.side_of) - set(sides.index))
    return assigned, replace(summary, draw=last.draw, came=tuple(came), gone=tuple(gone)), kept
