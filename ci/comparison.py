"""Compare a branch with its base: model, data, parameters, size and speed, as plain values.

This code runs both bundles on the base's test cells. What the branch's files say about its own model is shown
as a claim (`Comparison.claims`) and decides nothing. `ci.verdict` judges the comparison.
"""

import json
import math
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, BeforeValidator, ConfigDict

from ci.revisions import Revision
from malaria import bundle, labels, params, paths, tables
from malaria.bundle import fingerprints
from malaria.cells import images, pack, packed
from malaria.errors import UserError
from malaria.evaluate import evaluation, metrics, paired

MAX_FLIPS = 10

# How many cells both bundles are timed on, and in how many rounds; the median of the rounds counts.
_TIMED_CELLS, _ROUNDS = 256, 7

# The app's default threshold. A bundle has more operating points, named by the specificity on val.
DEFAULT_POINT = 0.5


def _plain(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(float(value), 6)


# JSON has no nan.
Number = Annotated[float | None, BeforeValidator(_plain)]


class Plain(BaseModel):
    """Immutable values that can be written as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Side(Plain):
    """One of the two revisions; `commit` is empty for a work tree with uncommitted changes."""

    name: str
    commit: str
    note: str = ""
    source: str
    bundle_bytes: int


class Figure(Plain):
    """A figure of branch and base on the same cells, and branch minus base with its 95 % interval.

    `at`: a specificity on these cells (`sensitivity_at`), or the one that an operating point was fixed for on
    val; 0.5 stands for the app's default threshold. `base` and the difference are None for a first revision.
    """

    name: str
    at: float | None = None
    branch: Number
    base: Number = None
    difference: Number = None
    low: Number = None
    high: Number = None


class JudgedCounts(Plain):
    """Counts of the cells that the branch is judged on, and of cells that it must not learn from.

    cells: the base's test cells of patients that the branch does not train or tune on. relabelled: cells
    among them that have another label on the branch. left_out: the base's other test cells.

    These must be 0: patients with cells on the branch's test side and on another one (`torn`), test cells
    trained on under another patient's name (`renamed`) or as a copy in another file (`copies`). Cells are
    matched by the SHA-256 of their files, copies by their fingerprints.

    came: the branch's test patients that the base lacks. gone: the base's test patients, of `tested`, that
    the branch lacks.
    """

    cells: int
    parasitized: int
    patients: int
    relabelled: int
    left_out: int
    torn: int
    renamed: int
    copies: int
    came: int
    gone: int
    tested: int


class Flip(Plain):
    """A cell that base and branch call differently at 0.5; P is None where it is turned away."""

    path: str
    label: str
    base: Number
    branch: Number


class Turnover(Plain):
    """Counts of the accepted cells of one class, identified by the SHA-256 of their files, or of patients.

    relabelled: cells that had the other label before. now: all of them.
    """

    name: str
    gained: int
    lost: int
    relabelled: int = 0
    now: int


class Change(Plain):
    """A parameter whose value differs; the value is empty if a revision lacks the parameter."""

    key: str
    base: str
    branch: str


class Speed(Plain):
    """Milliseconds per cell on one core; both bundles are timed alternately on the same cells."""

    base_ms: float | None
    branch_ms: float
    cells: int


class Stage(Plain):
    """How a stage got its results: it `ran`, or the run `cache` had them; else how dvc.lock compares."""

    name: str
    how: Literal["ran", "cache", "unchanged", "changed"]
    seconds: float | None = None


class Comparison(Plain):
    """The whole comparison of a branch with its base.

    base: None for a first revision. unreadable: why the branch's bundle could not be run; then there are no
    figures. auc_low: lower end of the interval of the branch's AUC. turned_away: shares of pictures that are
    no cells which base and branch turn away. above_here: lower end of the interval of the difference in AUC,
    the branch's bundle minus the one that its code made here. elsewhere: what the stage external of each
    revision claims, by laboratory and figure, without differences. behind: number of the base's commits that
    the branch lacks. sample: whether both were made on the synthetic sample in place of params.yaml's source.
    rules: files and sections that decide how models are judged, and that the branch changes. own_code:
    whether the branch's own code compared and judges, because the base has none that could. contradicted:
    stages with the same inputs as in the base's dvc.lock, and other outputs. forged: number of the branch's
    cells whose file does not have their hash.
    """

    base: Side | None
    branch: Side
    behind: int = 0
    sample: bool = False
    rules: tuple[str, ...] = ()
    own_code: bool = False
    contradicted: tuple[str, ...] = ()
    forged: int = 0
    limits: params.Gate
    stages: tuple[Stage, ...]
    judged: JudgedCounts
    unreadable: str = ""
    figures: tuple[Figure, ...] = ()
    auc_low: Number = None
    turned_away: tuple[float, float] = (0.0, 0.0)
    above_here: Number = None
    claims: dict[str, Any]
    elsewhere: tuple[Figure, ...] = ()
    flips: tuple[Flip, ...] = ()
    flipped: int = 0
    classes: tuple[Turnover, ...]
    patients: Turnover
    changes: tuple[Change, ...]
    speed: Speed | None = None

    def figure(self, name: str) -> Figure | None:
        return next((figure for figure in self.figures if figure.name == name), None)


def judged_cells(base: Revision | None, branch: Revision) -> tuple[pd.DataFrame, JudgedCounts]:
    """Choose the cells that the branch is judged on.

    Returns:
        The cells, with the columns path (below the base's data/raw), patient, label and sha256; and counts.
        Without a base they are the branch's own test cells.
    """
    base_cells, cells = _cells(base or branch), _cells(branch)
    owner = base_cells.set_index("sha256").patient
    # The base's names of patients count, so that a new name on the branch hides no one.
    cells = cells.assign(owner=cells.sha256.map(owner).fillna(cells.patient))
    train_val = cells[cells.split != tables.TEST]
    train_val_patients, test_patients = set(train_val.owner), set(cells.owner[cells.split == tables.TEST])
    base_test = base_cells[base_cells.split == tables.TEST]
    unseen = ~base_test.patient.isin(train_val_patients)
    judged = base_test[unseen].sort_values("path", ignore_index=True)
    renamed = train_val.sha256.isin(base_test.sha256) & (train_val.owner != train_val.patient)
    branch_label = judged.sha256.map(cells.set_index("sha256").label)
    return judged, JudgedCounts(
        cells=len(judged),
        parasitized=int((judged.label == labels.PARASITIZED).sum()),
        patients=int(judged.patient.nunique()),
        relabelled=int((branch_label.notna() & (branch_label != judged.label)).sum()),
        left_out=int((~unseen).sum()),
        torn=len(train_val_patients & test_patients),
        renamed=int(renamed.sum()),
        copies=_copies(base, branch, judged, train_val) if base else 0,
        came=len(test_patients - set(base_cells.patient)),
        gone=len(set(base_test.patient) - train_val_patients - test_patients),
        tested=int(base_test.patient.nunique()),
    )


def compare(
    base: Revision | None,
    branch: Revision,
    judged: pd.DataFrame,
    counts: JudgedCounts,
    settings: params.Params,
    rebuilt: Path | None = None,
    **facts: Any,
) -> Comparison:
    """Compare the branch with its base.

    Args:
        judged, counts: as `judged_cells` gives them.
        settings: the parameters by which both are judged.
        rebuilt: folder of the bundle that the branch's code made on this machine, if it may differ.
        facts: further fields of `Comparison`, which need git, dvc.lock or the record of a run.
    """
    limits = images.Limits(settings.audit.min_side, settings.audit.max_pixels)
    raw = (base or branch).folder / paths.RAW
    crops = [images.read(raw / path, limits).pixels for path in judged.path]
    base_model = None if base is None else bundle.load(base.folder / paths.BUNDLE, threads=1)
    try:
        model = bundle.load(branch.folder / paths.BUNDLE, threads=1)
        predictions = model.run(crops)
        rebuilt_predictions = None if rebuilt is None else bundle.load(rebuilt, threads=1).run(crops)
        if np.isnan(predictions.p_parasitized).any():
            raise ValueError("it gives no probability of some cells")
    except Exception as error:
        # A bundle of an unknown format may fail at any step.
        results: dict[str, Any] = {"unreadable": str(error)}
    else:
        results = _results(model, predictions, base_model, judged, crops, settings)
        if rebuilt_predictions is not None:
            pairs = judged.assign(one=predictions.p_parasitized, other=rebuilt_predictions.p_parasitized)
            auc = paired.differences(pairs, settings.evaluate)[evaluation.AS_GIVEN]["auc"]
            results["above_here"] = _low(auc.difference)
    return Comparison(
        base=None if base is None else _side(base),
        branch=_side(branch),
        limits=settings.gate,
        judged=counts,
        claims=json.loads((branch.folder / paths.SUMMARY).read_text(encoding="utf-8")),
        elsewhere=_external_figures(base, branch),
        changes=() if base is None else changes(base.params, branch.params),
        **_turnover(base, branch),
        **results,
        **facts,
    )


def _external_figures(base: Revision | None, branch: Revision) -> tuple[Figure, ...]:
    old, new = {} if base is None else _external_values(base), _external_values(branch)
    # A set that the branch no longer evaluates stays in the report.
    return tuple(Figure(name=name, base=old.get(name), branch=new.get(name)) for name in old | new)


def _external_values(revision: Revision) -> dict[str, float | None]:
    """Values of the figures that the stage external wrote, by laboratory and name."""
    file = revision.folder / paths.EXTERNAL
    scores = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return {
        f"{laboratory}: {name.replace('_', ' ')}": figure["value"]
        for laboratory, figures in scores.items()
        for name, figure in figures.items()
        if isinstance(figure, dict) and isinstance(figure.get("value", ""), float | int | None)
    }


def _results(
    model: bundle.Bundle,
    predictions: bundle.Predictions,
    base_model: bundle.Bundle | None,
    judged: pd.DataFrame,
    crops: list[images.Pixels],
    settings: params.Params,
) -> dict[str, Any]:
    """The fields of `Comparison` that come from both bundles; `predictions` are the branch's for `crops`."""
    models = (base_model or model, model)
    base_predictions = predictions if base_model is None else base_model.run(crops)
    cells = judged.assign(
        one=predictions.p_parasitized,
        other=base_predictions.p_parasitized,
        rejected_one=_rejected(model, predictions, crops),
        rejected_other=_rejected(models[0], base_predictions, crops),
    )
    # Inverted pictures: they are no cells, whatever the stain.
    inverted = [(255 - crop).astype(np.uint8) for crop in crops[:_TIMED_CELLS]]
    rejected = [_rejected(m, m.run(inverted), inverted) for m in models]
    figures, auc_low = _figures(cells, models, settings, first=base_model is None)
    flips = [] if base_model is None else _flips(cells)
    return {
        "figures": figures,
        "auc_low": auc_low,
        "turned_away": [float(mask.sum() / max(len(inverted), 1)) for mask in rejected],
        "flips": flips[:MAX_FLIPS],
        "flipped": len(flips),
        "speed": _speed(base_model, model, crops[:_TIMED_CELLS]) if crops else None,
    }


def changes(base: Mapping[str, Any], branch: Mapping[str, Any]) -> tuple[Change, ...]:
    """Parameters whose value differs, by their dotted names."""
    from dvc.utils.flatten import flatten

    old, new = (
        {key: json.dumps(value, default=str).strip('"') for key, value in flatten(dict(content)).items()}
        for content in (base, branch)
    )
    changed = [key for key in old | new if old.get(key, "") != new.get(key, "")]
    return tuple(Change(key=key, base=old.get(key, ""), branch=new.get(key, "")) for key in changed)


def changed_stages(base: Revision | None, branch: Revision) -> tuple[Stage, ...]:
    """How each stage's entry in dvc.lock compares with the base's, if no record says how the stages ran."""
    base_lock = {} if base is None else base.lock
    return tuple(
        Stage(name=name, how="unchanged" if base_lock.get(name) == entry else "changed")
        for name, entry in branch.lock.items()
    )


def _side(revision: Revision) -> Side:
    contents = (revision.folder / paths.BUNDLE).rglob("*")
    return Side(
        name=revision.name,
        commit=revision.commit,
        note=revision.note,
        source=str(revision.params["data"]["source"]),
        bundle_bytes=sum(file.stat().st_size for file in contents if file.is_file()),
    )


def accepted(revision: Revision) -> pd.DataFrame:
    """The cells that the audit accepted: rows of tables.CELLS; UserError if the table names one twice."""
    cells = tables.read(revision.folder / paths.CELLS, tables.CELLS)
    for path in cells.path[cells.path.duplicated()]:
        raise UserError(f"{revision.folder / paths.CELLS} lists {path} twice: run `dvc repro --force audit`.")
    return cells[cells.status == tables.OK]


def _cells(revision: Revision) -> pd.DataFrame:
    """The split cells, without duplicates of a file's content: columns of tables.SPLITS, and sha256.

    A cell that lies on the test side and on another one counts as on the other.
    """
    splits = tables.read(revision.folder / paths.SPLITS, tables.SPLITS)
    hashes = accepted(revision).set_index("path").sha256
    cells = splits.assign(sha256=splits.path.map(hashes)).dropna()
    return cells.sort_values("split", key=lambda side: side == tables.TEST).drop_duplicates("sha256")


def _copies(base: Revision, branch: Revision, judged: pd.DataFrame, train_val: pd.DataFrame) -> int:
    """Count the judged cells that the branch learns from as copies, and the base does not.

    A copy has the same fingerprint, also if it is turned or mirrored. Copies are looked for in files that the
    base lacks (prepared as the base does), in other laboratories' cells, and in the cells that the network to
    start from has learned. If these are not known, every judged cell counts.
    """
    base_pack = packed.load(base.folder / paths.PACKED)
    views = [base_pack.images[packed.rows_of(base_pack, judged.path)]]
    cells, base_cells = accepted(branch), accepted(base)
    colour = base.params["pack"]["colour"]
    branch_colour = branch.params.get("pack", {}).get("colour", colour)
    if branch_colour != colour:
        # Other laboratories' cells come as the branch packs them.
        rows = base_cells[base_cells.path.isin(judged.path)]
        views.append(_packed(base, rows, base_pack.size, branch_colour))
    views += [view[:, :, ::-1] for view in views]
    views = [np.rot90(view, turns, (1, 2)) for view in views for turns in range(4)]
    splits = tables.read(base.folder / paths.SPLITS, tables.SPLITS)
    base_pixels = base_pack.images[packed.rows_of(base_pack, splits.path[splits.split != tables.TEST])]
    new = cells[cells.path.isin(train_val.path) & ~cells.sha256.isin(base_cells.sha256)]
    pixels = _packed(branch, new, base_pack.size, colour)
    matches = []
    for revision, own_pixels in ((branch, pixels), (base, base_pixels)):
        others = _learned_elsewhere(revision)
        if others is None:
            return len(judged)
        learned = np.concatenate([fingerprints.of(own_pixels), others])
        matches.append(np.any([fingerprints.known(learned, view) for view in views], axis=0))
    return int((matches[0] & ~matches[1]).sum())


def _packed(revision: Revision, cells: pd.DataFrame, size: int, colour: params.Colour) -> images.Pixels:
    """Cells of a revision, rows of tables.CELLS, as the stage pack prepares them; sorted by path."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "packed")
        pack.write(revision.folder / paths.RAW, cells, size, colour, folder)
        return np.array(packed.load(folder).images)


def _learned_elsewhere(revision: Revision) -> fingerprints.Fingerprints | None:
    """Fingerprints of cells that training learns from, beside the revision's own.

    They are those of other laboratories, and those that the network to start from has learned. None if the
    latter are not known.
    """
    folder = revision.folder / paths.LABORATORIES
    others = fingerprints.of(packed.load(folder).images if folder.is_dir() else [])
    start = revision.folder / revision.params.get("train", {}).get("start", "data/start")
    if not (start / paths.MODEL.name).is_file():
        return others
    file = start / bundle.PARTS["trained_on"]
    start_cells = fingerprints.from_bytes(file.read_bytes()) if file.is_file() else None
    return None if start_cells is None else np.concatenate([others, start_cells])


def _rejected(
    model: bundle.Bundle, predictions: bundle.Predictions, crops: list[images.Pixels]
) -> npt.NDArray[np.bool_]:
    """Whether the bundle turns away each of `crops`, or apps do because of its limits."""
    least, most = model.limits.min_side, model.limits.max_pixels
    rejected = [
        reason is not None or min(crop.shape[:2]) < least or crop[..., 0].size > most
        for crop, reason in zip(crops, predictions.rejected, strict=True)
    ]
    return np.array(rejected, dtype=bool)


def _figures(
    cells: pd.DataFrame, models: tuple[bundle.Bundle, bundle.Bundle], settings: params.Params, first: bool
) -> tuple[list[Figure], float | None]:
    """All figures of branch and base, and the lower end of the interval of the branch's AUC.

    Args:
        cells: the judged cells. Columns one and other: the probabilities by branch and base; rejected_one and
            rejected_other: whether they turn the cell away.
        models: the bundles of base and branch.
    """
    if cells.label.nunique() < 2:
        return [], None
    specificity = settings.gate.specificity
    pairs = [
        ("auc", None, paired.differences(cells, settings.evaluate)[evaluation.AS_GIVEN]["auc"]),
        ("sensitivity_at", specificity, paired.at_specificity(cells, settings.evaluate, specificity)),
        ("ece", None, paired.calibration(cells, settings.evaluate)),
    ]
    base_thresholds, thresholds = (
        {point.specificity: point.threshold for point in model.record.operating_points} | {DEFAULT_POINT: 0.5}
        for model in models
    )
    for at, base_threshold in sorted(base_thresholds.items()):
        # A cell that is turned away counts as wrong. If the branch lacks the point, no cell is called
        # parasitised there.
        calls = {
            side: np.where(cells[f"rejected_{side}"], cells.label != labels.PARASITIZED, cells[side] >= limit)
            for side, limit in (("one", thresholds.get(at, math.inf)), ("other", base_threshold))
        }
        called = cells.assign(**{side: values.astype(np.float64) for side, values in calls.items()})
        differences = paired.differences(called, settings.evaluate)[evaluation.AS_GIVEN]
        pairs += [(name, at, differences[name]) for name in ("sensitivity", "specificity")]
        if at == DEFAULT_POINT:
            pairs += [(name, None, differences[name]) for name in ("accuracy", "worst_decile_sensitivity")]
    figures = []
    for name, point, pair in pairs:
        gap = pair.difference
        base_values = {"base": pair.other, "difference": gap.value, "low": gap.low, "high": gap.high}
        figures.append(Figure(name=name, at=point, branch=pair.one, **({} if first else base_values)))
    # A model with one probability for all cells has an AUC of 0.5 under every resample.
    chance = paired.differences(cells.assign(other=0.5), settings.evaluate)[evaluation.AS_GIVEN]["auc"]
    return figures, _low(chance.difference) + 0.5


def _low(difference: metrics.Estimate) -> float:
    """The lower end of the interval; the value itself if all resamples give the same."""
    return difference.value if math.isnan(difference.low) else difference.low


def _flips(cells: pd.DataFrame) -> list[Flip]:
    """The cells that base and branch call differently, the largest difference first; `cells` as above."""
    p, base_p = (cells[side].mask(cells[f"rejected_{side}"]) for side in ("one", "other"))
    flipped = ((p >= 0.5) != (base_p >= 0.5)) | (p.isna() != base_p.isna())
    gap = (p.fillna(-1) - base_p.fillna(-1)).abs()
    flips = cells.assign(p=p, base_p=base_p, gap=gap)[flipped]
    rows = flips.sort_values(["gap", "path"], ascending=[False, True]).itertuples()
    return [Flip(path=row.path, label=row.label, base=row.base_p, branch=row.p) for row in rows]


def _turnover(base: Revision | None, branch: Revision) -> dict[str, Any]:
    """The fields `classes` and `patients` of `Comparison`."""
    now = accepted(branch)
    before = now.iloc[:0] if base is None else accepted(base)
    old, new = (set(cells.patient[cells.patient != ""]) for cells in (before, now))
    patients = Turnover(name="Patients", gained=len(new - old), lost=len(old - new), now=len(new))
    classes = by_class(before, now).rename_axis("name").reset_index()
    return {"classes": classes.to_dict("records"), "patients": patients}


def by_class(before: pd.DataFrame, now: pd.DataFrame) -> pd.DataFrame:
    """Count cells (rows of tables.CELLS, identified by sha256) by label, with the columns of `Turnover`."""
    old_label = now.sha256.map(before.drop_duplicates("sha256").set_index("sha256").label)
    cells = {
        "gained": now.label[old_label.isna()],
        "lost": before.label[~before.sha256.isin(now.sha256)],
        "relabelled": now.label[old_label.notna() & (old_label != now.label)],
        "now": now.label,
    }
    counts = {name: label.value_counts() for name, label in cells.items()}
    return pd.DataFrame(counts, index=list(reversed(labels.LABELS))).fillna(0).astype(int)


def _speed(base: bundle.Bundle | None, branch: bundle.Bundle, crops: list[images.Pixels]) -> Speed:
    """Time both bundles alternately, so that other load on the machine slows both."""
    models = {"branch": branch} if base is None else {"base": base, "branch": branch}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(_ROUNDS):
        for name, model in models.items():
            start = time.perf_counter()
            model.predict(crops)
            seconds[name].append(time.perf_counter() - start)
    ms = {name: round(float(np.median(times)) / len(crops) * 1000, 4) for name, times in seconds.items()}
    return Speed(base_ms=ms.get("base"), branch_ms=ms["branch"], cells=len(crops))
