"""What a branch changes against its base: model, data, parameters, size and speed, as plain values."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from ci.revisions import Revision
from malaria import bundle, files, labels, params, paths, tables
from malaria.cells import packed
from malaria.command import without_native_logs
from malaria.errors import UserError
from malaria.evaluate import evaluation, metrics, paired, plots

MOST_FLIPS = 10

# Cells that both bundles are timed on, and how often: the median of the rounds counts.
_TIMED_CELLS, _ROUNDS = 256, 7

# A change of these files, or of these sections of params.yaml, changes how a branch is judged.
RULES = (
    ".github",
    "Makefile",
    "ci",
    "malaria/evaluate/calibration.py",
    "malaria/evaluate/evaluation.py",
    "malaria/evaluate/metrics.py",
    "malaria/evaluate/paired.py",
    "stages/evaluate.py",
)
RULING_SECTIONS = ("evaluate", "gate")

_CURVES = {"train loss": "train/loss", "val loss": "val/loss", "val AUC": "val/auc"}


class Plain(BaseModel):
    """Values for JSON, that nobody changes."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Side(Plain):
    """One of the two revisions; `commit` is empty for a work tree that differs from its commit, `lock` and
    `params` are SHA-256 of dvc.lock and params.yaml.
    """

    name: str
    commit: str
    lock: str
    params: str
    note: str = ""
    source: str
    test_cells: int
    test_ece: float
    bundle_bytes: int


class Figure(Plain):
    """A figure of both on the same cells, and branch minus base with its 95 % interval."""

    words: str
    base: float | None
    branch: float | None
    difference: float | None
    low: float | None
    high: float | None


class Common(Plain):
    """The test cells that both hold, of patients neither trained on, judged by the branch's labels."""

    cells: int
    parasitized: int
    patients: int
    relabelled: int
    trained_on: int  # held by both tests, but of patients that one of them trained on


class Flip(Plain):
    """A cell that the two call differently at 0.5."""

    path: str
    patient: str
    label: str
    base: float
    branch: float


class Gained(Plain):
    """What the data gained or lost of one class, and which cells it now has under the other label."""

    label: str
    gained: int
    lost: int
    relabelled: int
    cells: int


class Data(Plain):
    """Accepted cells, told apart by their files' hashes."""

    classes: tuple[Gained, ...]
    patients_gained: int
    patients_lost: int
    patients: int


class Change(Plain):
    """A parameter with another value; empty where a revision does not have it."""

    key: str
    base: str
    branch: str


class Speed(Plain):
    """Milliseconds a cell on one core, measured in turns on the same cells; `note` says why it is not."""

    base_ms: float | None
    branch_ms: float | None
    cells: int
    note: str = ""


class Stage(Plain):
    """How a stage came by its results: `ran`, from the run `cache`, or not at all since base."""

    name: str
    how: Literal["ran", "cache", "unchanged", "changed"]
    seconds: float | None = None


class Curve(Plain):
    """A plot of both: points (x, y)."""

    title: str
    x: str
    y: str
    base: tuple[tuple[float, float], ...]
    branch: tuple[tuple[float, float], ...]


class Comparison(Plain):
    """All of it. `base` is None for a first revision: then there is nothing to compare with."""

    base: Side | None
    branch: Side
    behind: int
    sample: bool
    rules: tuple[str, ...]
    limits: params.Gate
    stages: tuple[Stage, ...]
    common: Common
    figures: dict[str, Figure]
    flips: tuple[Flip, ...]
    flipped: int
    data: Data
    changes: tuple[Change, ...]
    speed: Speed
    curves: tuple[Curve, ...]


def compare(
    base: Revision | None,
    branch: Revision,
    settings: params.Evaluate,
    limits: params.Gate,
    stages: tuple[Stage, ...],
    behind: int = 0,
    rules: tuple[str, ...] = (),
    sample: bool = False,
) -> Comparison:
    """Compare the branch with its base.

    Args:
        settings: by which both are judged, as `limits`: the base's, where it has any.
        limits: what the gate goes by.
        stages: how the branch's results came about.
        behind: commits of base that the branch lacks.
        rules: what the branch changes of how it is judged.
        sample: whether both were made on the synthetic sample in place of params.yaml's source.
    """
    if base is None:
        common, counted = _nothing()
    else:
        common, counted = _common(base, branch)
    figures = _figures(common, settings, limits.specificity) if len(common) else {}
    flips = _flips(common)
    return Comparison(
        base=None if base is None else _side(base, settings),
        branch=_side(branch, settings),
        behind=behind,
        sample=sample,
        rules=rules,
        limits=limits,
        stages=stages,
        common=counted,
        figures=figures,
        flips=tuple(flips[:MOST_FLIPS]),
        flipped=len(flips),
        data=_data(base, branch),
        changes=() if base is None else changes(base.params, branch.params),
        speed=_speed(base, branch),
        curves=_curves(base, branch, common, settings),
    )


def changes(base: Mapping[str, Any], branch: Mapping[str, Any]) -> tuple[Change, ...]:
    """Parameters whose value differs, by their dotted names."""
    one, other = _flat(base), _flat(branch)
    return tuple(
        Change(key=key, base=one.get(key, ""), branch=other.get(key, ""))
        for key in [*one, *(key for key in other if key not in one)]
        if one.get(key, "") != other.get(key, "")
    )


def changed_stages(base: Revision | None, branch: Revision) -> tuple[Stage, ...]:
    """The stages whose entry in dvc.lock differs from base's, where no record tells how they ran."""
    before = {} if base is None else base.lock
    return tuple(
        Stage(name=name, how="unchanged" if before.get(name) == entry else "changed")
        for name, entry in branch.lock.items()
    )


def _side(revision: Revision, settings: params.Evaluate) -> Side:
    tested = _tested(revision)
    alone = settings.model_copy(update={"resamples": 0})
    ece = metrics.ece(metrics.sample(tested, tested.p_parasitized, alone), settings.bins)[0]
    folder = revision.folder / paths.BUNDLE
    return Side(
        name=revision.name,
        commit=revision.commit,
        lock=revision.lock_hash,
        params=files.sha256(revision.folder / paths.PARAMS),
        note=revision.note,
        source=str(revision.params["data"]["source"]),
        test_cells=len(tested),
        test_ece=round(float(ece), 6),
        bundle_bytes=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
    )


def _accepted(revision: Revision) -> pd.DataFrame:
    cells = tables.read(revision.folder / paths.CELLS, tables.CELLS)
    return cells[cells.status == tables.OK]


def _tested(revision: Revision) -> pd.DataFrame:
    """Test cells: columns of tables.PREDICTIONS, and sha256."""
    predicted = tables.read(revision.folder / paths.PREDICTIONS, tables.PREDICTIONS)
    hashes = _accepted(revision).set_index("path").sha256
    tested = predicted[predicted.split == tables.TEST]
    return tested.assign(sha256=tested.path.map(hashes)).dropna(subset="sha256")


def _common(base: Revision, branch: Revision) -> tuple[pd.DataFrame, Common]:
    """The cells to judge by, as `paired.differences` takes them (`one` is the branch), and their counts.

    A cell is the same where its file's bytes are: names say nothing of what two revisions hold.
    """
    before, now = _tested(base), _tested(branch)
    both = now.merge(before, on="sha256", suffixes=("", "_base"))
    clean = ~both.patient_base.isin(_trained_on(base)) & ~both.patient.isin(_trained_on(branch))
    cells = both[clean].rename(columns={"p_parasitized": "one", "p_parasitized_base": "other"})
    counted = Common(
        cells=len(cells),
        parasitized=int((cells.label == labels.PARASITIZED).sum()),
        patients=int(cells.patient.nunique()),
        relabelled=int((cells.label != cells.label_base).sum()),
        trained_on=int((~clean).sum()),
    )
    columns = ["path", "patient", "label", "one", "other"]
    return cells[columns].sort_values("path", ignore_index=True), counted


def _nothing() -> tuple[pd.DataFrame, Common]:
    empty = pd.DataFrame({name: [] for name in ("path", "patient", "label", "one", "other")})
    return empty, Common(cells=0, parasitized=0, patients=0, relabelled=0, trained_on=0)


def _trained_on(revision: Revision) -> set[str]:
    splits = tables.read(revision.folder / paths.SPLITS, tables.SPLITS)
    return set(splits.patient[splits.split == tables.TRAIN])


def _figures(cells: pd.DataFrame, settings: params.Evaluate, specificity: float) -> dict[str, Figure]:
    found = paired.differences(cells, settings)[evaluation.AS_GIVEN]
    at = f"sensitivity at {specificity * 100:g} % specificity"
    named = {
        "auc": ("AUC", found["auc"]),
        "sensitivity_at": (at, paired.at_specificity(cells, settings, specificity)),
        "ece": ("calibration error (ECE)", paired.calibration(cells, settings)),
        **{name: (paired.FIGURES[name], figure) for name, figure in found.items() if name != "auc"},
    }
    return {name: _figure(words, difference) for name, (words, difference) in named.items()}


def _figure(words: str, found: paired.Difference) -> Figure:
    return Figure(
        words=words,
        base=_plain(found.other),
        branch=_plain(found.one),
        difference=_plain(found.difference.value),
        low=_plain(found.difference.low),
        high=_plain(found.difference.high),
    )


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 6)


def _flips(cells: pd.DataFrame) -> list[Flip]:
    """The cells that the two call differently, the furthest apart first."""
    differ = cells[(cells.one >= 0.5) != (cells.other >= 0.5)]
    ordered = differ.assign(step=(differ.one - differ.other).abs()).sort_values(
        ["step", "path"], ascending=[False, True]
    )
    return [
        Flip(
            path=path,
            patient=patient,
            label=label,
            base=round(float(base), 4),
            branch=round(float(branch), 4),
        )
        for path, patient, label, branch, base in zip(
            *(ordered[name] for name in ("path", "patient", "label", "one", "other")), strict=True
        )
    ]


def _data(base: Revision | None, branch: Revision) -> Data:
    now = _accepted(branch)
    before = now.iloc[:0] if base is None else _accepted(base)
    of_before = before.drop_duplicates("sha256").set_index("sha256").label
    was = now.sha256.map(of_before)
    gone = before[~before.sha256.isin(now.sha256)]
    old, new = (set(cells.patient[cells.patient != ""]) for cells in (before, now))
    return Data(
        classes=tuple(
            Gained(
                label=label,
                gained=int((was.isna() & (now.label == label)).sum()),
                lost=int((gone.label == label).sum()),
                relabelled=int((was.notna() & (was != now.label) & (now.label == label)).sum()),
                cells=int((now.label == label).sum()),
            )
            for label in reversed(labels.LABELS)
        ),
        patients_gained=len(new - old),
        patients_lost=len(old - new),
        patients=len(new),
    )


def _speed(base: Revision | None, branch: Revision) -> Speed:
    """Time both bundles in turns, so that whatever else the machine does slows both."""
    pixels = np.asarray(packed.load(branch.folder / paths.PACKED).images[:_TIMED_CELLS])
    sides = {"branch": branch} if base is None else {"base": base, "branch": branch}
    opened = {}
    for name, revision in sides.items():
        try:
            # The interpreter says hello on the terminal when it is first asked.
            with without_native_logs():
                opened[name] = bundle.load(revision.folder / paths.BUNDLE, threads=1)
                opened[name].predict(pixels)
        except UserError:
            note = f"this version of the code cannot open the bundle of {revision.name}"
            return Speed(base_ms=None, branch_ms=None, cells=len(pixels), note=note)
    times: dict[str, list[float]] = {name: [] for name in opened}
    for _ in range(_ROUNDS):
        for name, model in opened.items():
            begun = time.perf_counter()
            model.predict(pixels)
            times[name].append(time.perf_counter() - begun)
    ms = {name: round(float(np.median(found)) / len(pixels) * 1000, 4) for name, found in times.items()}
    return Speed(base_ms=ms.get("base"), branch_ms=ms["branch"], cells=len(pixels))


def _curves(
    base: Revision | None, branch: Revision, common: pd.DataFrame, settings: params.Evaluate
) -> tuple[Curve, ...]:
    """ROC and reliability on the cells that both are judged by, and how both were trained."""
    drawn = []
    if common.label.nunique() == 2:
        of = {
            side: plots.frames(common.assign(p_parasitized=common[side]), settings.bins, settings.min_cells)
            for side in ("other", "one")
        }
        for title, name, x, y in (
            ("ROC", "roc", "one_minus_specificity", "sensitivity"),
            ("Reliability", "reliability", "mean_probability", "share_parasitized"),
        ):
            points = [_points(of[side][name][x], of[side][name][y]) for side in ("other", "one")]
            drawn.append(
                Curve(
                    title=title,
                    x="1 - specificity" if name == "roc" else "mean probability",
                    y="sensitivity" if name == "roc" else "share parasitised",
                    base=points[0],
                    branch=points[1],
                )
            )
    for title, metric in _CURVES.items():
        before = () if base is None else _trained(base, metric)
        drawn.append(Curve(title=title, x="epoch", y=title, base=before, branch=_trained(branch, metric)))
    return tuple(drawn)


def _trained(revision: Revision, metric: str) -> tuple[tuple[float, float], ...]:
    """A curve of DVCLive; none where the revision logged it elsewhere."""
    file = revision.folder / paths.TRAINING / "plots/metrics" / f"{metric}.tsv"
    if not file.is_file():
        return ()
    table = pd.read_csv(file, sep="\t")
    return _points(table["step"], table[Path(metric).name])


def _points(x: "pd.Series[float]", y: "pd.Series[float]") -> tuple[tuple[float, float], ...]:
    return tuple((round(float(left), 5), round(float(up), 5)) for left, up in zip(x, y, strict=True))


def _flat(content: Any, above: str = "") -> dict[str, str]:
    if not isinstance(content, Mapping) or not content:
        return {above: _shown(content)}
    found: dict[str, str] = {}
    for key, value in content.items():
        found |= _flat(value, f"{above}.{key}" if above else str(key))
    return found


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(_shown(part) for part in value) + "]"
    return "none" if value is None else str(value)
