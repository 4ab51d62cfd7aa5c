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

MOST_FLIPS = 10

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


class Judged(Plain):
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
    """A cell that base and branch call differently at 0.5; None for P where it is turned away."""

    path: str
    label: str
    base: Number
    branch: Number


class Gained(Plain):
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
    judged: Judged
    unreadable: str = ""
    figures: tuple[Figure, ...] = ()
    auc_low: Number = None
    turned_away: tuple[float, float] = (0.0, 0.0)
    above_here: Number = None
    claims: dict[str, Any]
    elsewhere: tuple[Figure, ...] = ()
    flips: tuple[Flip, ...] = ()
    flipped: int = 0
    classes: tuple[Gained, ...]
    patients: Gained
    changes: tuple[Change, ...]
    speed: Speed | None = None

    def figure(self, name: str) -> Figure | None:
        return next((figure for figure in self.figures if figure.name == name), None)


def judged_cells(base: Revision | None, branch: Revision) -> tuple[pd.DataFrame, Judged]:
    """Choose the cells that the branch is judged on.

    Returns:
        The cells, with the columns path (below the base's data/raw), patient, label and sha256; and counts.
        Without a base they are the branch's own test cells.
    """
    known, now = _cells(base or branch), _cells(branch)
    owner = known.set_index("sha256").patient
    # The base's names of patients count, so that a new name on the branch hides no one.
    now = now.assign(owner=now.sha256.map(owner).fillna(now.patient))
    made_with = now[now.split != tables.TEST]
    used, kept = set(made_with.owner), set(now.owner[now.split == tables.TEST])
    tested = known[known.split == tables.TEST]
    clean = ~tested.patient.isin(used)
    judged = tested[clean].sort_values("path", ignore_index=True)
    under_another_name = made_with.sha256.isin(tested.sha256) & (made_with.owner != made_with.patient)
    was = judged.sha256.map(now.set_index("sha256").label)
    return judged, Judged(
        cells=len(judged),
        parasitized=int((judged.label == labels.PARASITIZED).sum()),
        patients=int(judged.patient.nunique()),
        relabelled=int((was.notna() & (was != judged.label)).sum()),
        left_out=int((~clean).sum()),
        torn=len(used & kept),
        renamed=int(under_another_name.sum()),
        copies=_copies(base, branch, judged, made_with) if base else 0,
        came=len(kept - set(known.patient)),
        gone=len(set(tested.patient) - used - kept),
        tested=int(tested.patient.nunique()),
    )


def compare(
    base: Revision | None,
    branch: Revision,
    judged: pd.DataFrame,
    counted: Judged,
    settings: params.Params,
    here: Path | None = None,
    **facts: Any,
) -> Comparison:
    """Compare the branch with its base.

    Args:
        judged, counted: as `judged_cells` gives them.
        settings: the parameters by which both are judged.
        here: folder of the bundle that the branch's code made on this machine, if it may differ.
        facts: further fields of `Comparison`, which need git, dvc.lock or the record of a run.
    """
    limits = images.Limits(settings.audit.min_side, settings.audit.max_pixels)
    raw = (base or branch).folder / paths.RAW
    crops = [images.read(raw / path, limits).pixels for path in judged.path]
    before = None if base is None else bundle.load(base.folder / paths.BUNDLE, threads=1)
    try:
        now = bundle.load(branch.folder / paths.BUNDLE, threads=1)
        said = now.run(crops)
        again = None if here is None else bundle.load(here, threads=1).run(crops)
        if np.isnan(said.p_parasitized).any():
            raise ValueError("it gives no probability of some cells")
    except Exception as error:
        # A bundle of an unknown format may fail at any step.
        answers: dict[str, Any] = {"unreadable": str(error)}
    else:
        answers = _answers(now, said, before, judged, crops, settings)
        if again is not None:
            both = judged.assign(one=said.p_parasitized, other=again.p_parasitized)
            auc = paired.differences(both, settings.evaluate)[evaluation.AS_GIVEN]["auc"]
            answers["above_here"] = _low(auc.difference)
    return Comparison(
        base=None if base is None else _side(base),
        branch=_side(branch),
        limits=settings.gate,
        judged=counted,
        claims=json.loads((branch.folder / paths.SUMMARY).read_text(encoding="utf-8")),
        elsewhere=_elsewhere(base, branch),
        changes=() if base is None else changes(base.params, branch.params),
        **_gained(base, branch),
        **answers,
        **facts,
    )


def _elsewhere(base: Revision | None, branch: Revision) -> tuple[Figure, ...]:
    before, now = {} if base is None else _external(base), _external(branch)
    # A set that the branch no longer evaluates stays in the report.
    return tuple(Figure(name=name, base=before.get(name), branch=now.get(name)) for name in before | now)


def _external(revision: Revision) -> dict[str, float | None]:
    """Values of the figures that the stage external wrote, by laboratory and name."""
    file = revision.folder / paths.EXTERNAL
    scores = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return {
        f"{laboratory}: {name.replace('_', ' ')}": figure["value"]
        for laboratory, of in scores.items()
        for name, figure in of.items()
        if isinstance(figure, dict) and isinstance(figure.get("value", ""), float | int | None)
    }


def _answers(
    now: bundle.Bundle,
    here: bundle.Predictions,
    before: bundle.Bundle | None,
    judged: pd.DataFrame,
    crops: list[images.Pixels],
    settings: params.Params,
) -> dict[str, Any]:
    """The fields of `Comparison` that come from both bundles; `here` are the branch's answers to `crops`."""
    there = here if before is None else before.run(crops)
    asked = judged.assign(one=here.p_parasitized, other=there.p_parasitized)
    sides = (before or now, now)
    turned_other, turned_one = (_rejected(*side, crops) for side in zip(sides, (there, here), strict=True))
    asked = asked.assign(turned_one=turned_one, turned_other=turned_other)
    # Inverted pictures: they are no cells, whatever the stain.
    strange = [(255 - crop).astype(np.uint8) for crop in crops[:_TIMED_CELLS]]
    shares = [float(_rejected(one, one.run(strange), strange).sum() / max(len(strange), 1)) for one in sides]
    figures, auc_low = _figures(asked, sides, settings, first=before is None)
    flips = [] if before is None else _flips(asked)
    return {
        "figures": figures,
        "auc_low": auc_low,
        "turned_away": shares,
        "flips": flips[:MOST_FLIPS],
        "flipped": len(flips),
        "speed": _speed(before, now, crops[:_TIMED_CELLS]) if crops else None,
    }


def changes(base: Mapping[str, Any], branch: Mapping[str, Any]) -> tuple[Change, ...]:
    """Parameters whose value differs, by their dotted names."""
    from dvc.utils.flatten import flatten

    one, other = (
        {key: json.dumps(value, default=str).strip('"') for key, value in flatten(dict(side)).items()}
        for side in (base, branch)
    )
    return tuple(
        Change(key=key, base=one.get(key, ""), branch=other.get(key, ""))
        for key in one | other
        if one.get(key, "") != other.get(key, "")
    )


def changed_stages(base: Revision | None, branch: Revision) -> tuple[Stage, ...]:
    """How each stage's entry in dvc.lock compares with the base's, if no record says how the stages ran."""
    before = {} if base is None else base.lock
    return tuple(
        Stage(name=name, how="unchanged" if before.get(name) == entry else "changed")
        for name, entry in branch.lock.items()
    )


def _side(revision: Revision) -> Side:
    held = (revision.folder / paths.BUNDLE).rglob("*")
    return Side(
        name=revision.name,
        commit=revision.commit,
        note=revision.note,
        source=str(revision.params["data"]["source"]),
        bundle_bytes=sum(file.stat().st_size for file in held if file.is_file()),
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
    found = splits.assign(sha256=splits.path.map(hashes)).dropna()
    return found.sort_values("split", key=lambda side: side == tables.TEST).drop_duplicates("sha256")


def _copies(base: Revision, branch: Revision, judged: pd.DataFrame, made_with: pd.DataFrame) -> int:
    """Count the judged cells that the branch learns from as copies, and the base does not.

    A copy has the same fingerprint, also if it is turned or mirrored. Copies are looked for in files that the
    base lacks (prepared as the base does), in other laboratories' cells, and in the cells that the network to
    start from has learned. If these are not known, every judged cell counts.
    """
    theirs = packed.load(base.folder / paths.PACKED)
    cells = [theirs.images[packed.rows_of(theirs, judged.path)]]
    ours, before = accepted(branch), accepted(base)
    colour = base.params["pack"]["colour"]
    other = branch.params.get("pack", {}).get("colour", colour)
    if other != colour:
        # Other laboratories' cells come as the branch packs them.
        cells.append(_packed(base, before[before.path.isin(judged.path)], theirs.size, other))
    sides = [side for one in cells for side in (one, one[:, :, ::-1])]
    turned = [np.rot90(side, turns, (1, 2)) for side in sides for turns in range(4)]
    splits = tables.read(base.folder / paths.SPLITS, tables.SPLITS)
    new = ours[ours.path.isin(made_with.path) & ~ours.sha256.isin(before.sha256)]
    learnt = fingerprints.of(_packed(branch, new, theirs.size, colour))
    known = fingerprints.of(theirs.images[packed.rows_of(theirs, splits.path[splits.split != tables.TEST])])
    met = []
    for revision, own in ((branch, learnt), (base, known)):
        others = _learnt_elsewhere(revision)
        if others is None:
            return len(judged)
        marks = np.concatenate([own, others])
        met.append(np.any([fingerprints.known(marks, form) for form in turned], axis=0))
    return int((met[0] & ~met[1]).sum())


def _packed(revision: Revision, cells: pd.DataFrame, size: int, colour: params.Colour) -> images.Pixels:
    """Cells of a revision, rows of tables.CELLS, as the stage pack prepares them; sorted by path."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "packed")
        pack.write(revision.folder / paths.RAW, cells, size, colour, folder)
        return np.array(packed.load(folder).images)


def _learnt_elsewhere(revision: Revision) -> fingerprints.Fingerprints | None:
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
    found = fingerprints.from_bytes(file.read_bytes()) if file.is_file() else None
    return None if found is None else np.concatenate([others, found])


def _rejected(
    model: bundle.Bundle, predictions: bundle.Predictions, crops: list[images.Pixels]
) -> npt.NDArray[np.bool_]:
    """Whether the bundle turns away each of `crops`, or apps do because of its limits."""
    least, most = model.limits.min_side, model.limits.max_pixels
    turned_away = [
        reason is not None or min(crop.shape[:2]) < least or crop[..., 0].size > most
        for crop, reason in zip(crops, predictions.rejected, strict=True)
    ]
    return np.array(turned_away, dtype=bool)


def _figures(
    asked: pd.DataFrame, bundles: tuple[bundle.Bundle, bundle.Bundle], settings: params.Params, first: bool
) -> tuple[list[Figure], float | None]:
    """All figures of branch and base, and the lower end of the interval of the branch's AUC.

    asked: the judged cells; columns one and other, the probabilities by branch and base, and turned_one and
    turned_other, whether they turn the cell away.
    """
    if asked.label.nunique() < 2:
        return [], None
    specificity = settings.gate.specificity
    found = [
        ("auc", None, paired.differences(asked, settings.evaluate)[evaluation.AS_GIVEN]["auc"]),
        ("sensitivity_at", specificity, paired.at_specificity(asked, settings.evaluate, specificity)),
        ("ece", None, paired.calibration(asked, settings.evaluate)),
    ]
    theirs, ours = (
        {point.specificity: point.threshold for point in one.record.operating_points} | {DEFAULT_POINT: 0.5}
        for one in bundles
    )
    for at in sorted(theirs):
        # A cell that is turned away counts as wrong. If the branch lacks the point, no cell is called
        # parasitised there.
        called = {
            side: np.where(asked[f"turned_{side}"], asked.label != labels.PARASITIZED, asked[side] >= limit)
            for side, limit in (("one", ours.get(at, math.inf)), ("other", theirs[at]))
        }
        here = asked.assign(**{side: values.astype(np.float64) for side, values in called.items()})
        differences = paired.differences(here, settings.evaluate)[evaluation.AS_GIVEN]
        found += [(name, at, differences[name]) for name in ("sensitivity", "specificity")]
        if at == DEFAULT_POINT:
            found += [(name, None, differences[name]) for name in ("accuracy", "worst_decile_sensitivity")]
    figures = []
    for name, point, both in found:
        apart = both.difference
        beside = {"base": both.other, "difference": apart.value, "low": apart.low, "high": apart.high}
        figures.append(Figure(name=name, at=point, branch=both.one, **({} if first else beside)))
    # A model with one probability for all cells has an AUC of 0.5 under every resample.
    chance = paired.differences(asked.assign(other=0.5), settings.evaluate)[evaluation.AS_GIVEN]["auc"]
    return figures, _low(chance.difference) + 0.5


def _low(difference: metrics.Estimate) -> float:
    """The lower end of the interval; the value itself if all resamples give the same."""
    return difference.value if math.isnan(difference.low) else difference.low


def _flips(asked: pd.DataFrame) -> list[Flip]:
    """The cells that base and branch call differently, the largest difference first; `asked` as above."""
    p = {side: asked[side].mask(asked[f"turned_{side}"]) for side in ("one", "other")}
    differ = ((p["one"] >= 0.5) != (p["other"] >= 0.5)) | (p["one"].isna() != p["other"].isna())
    step = (p["one"].fillna(-1) - p["other"].fillna(-1)).abs()
    ordered = asked.assign(**p, step=step)[differ].sort_values(["step", "path"], ascending=[False, True])
    cells = ordered.itertuples()
    return [Flip(path=cell.path, label=cell.label, base=cell.other, branch=cell.one) for cell in cells]


def _gained(base: Revision | None, branch: Revision) -> dict[str, Any]:
    """The fields `classes` and `patients` of `Comparison`."""
    now = accepted(branch)
    before = now.iloc[:0] if base is None else accepted(base)
    old, new = (set(cells.patient[cells.patient != ""]) for cells in (before, now))
    patients = Gained(name="Patients", gained=len(new - old), lost=len(old - new), now=len(new))
    classes = by_class(before, now).rename_axis("name").reset_index()
    return {"classes": classes.to_dict("records"), "patients": patients}


def by_class(before: pd.DataFrame, now: pd.DataFrame) -> pd.DataFrame:
    """Count cells (rows of tables.CELLS, identified by sha256) by label, with the columns of `Gained`."""
    was = now.sha256.map(before.drop_duplicates("sha256").set_index("sha256").label)
    counted = {
        "gained": now.label[was.isna()],
        "lost": before.label[~before.sha256.isin(now.sha256)],
        "relabelled": now.label[was.notna() & (was != now.label)],
        "now": now.label,
    }
    counts = {name: of.value_counts() for name, of in counted.items()}
    return pd.DataFrame(counts, index=list(reversed(labels.LABELS))).fillna(0).astype(int)


def _speed(before: bundle.Bundle | None, now: bundle.Bundle, crops: list[images.Pixels]) -> Speed:
    """Time both bundles alternately, so that other load on the machine slows both."""
    sides = {"branch": now} if before is None else {"base": before, "branch": now}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(_ROUNDS):
        for name, model in sides.items():
            begun = time.perf_counter()
            model.predict(crops)
            times[name].append(time.perf_counter() - begun)
    ms = {name: round(float(np.median(found)) / len(crops) * 1000, 4) for name, found in times.items()}
    return Speed(base_ms=ms.get("base"), branch_ms=ms["branch"], cells=len(crops))
