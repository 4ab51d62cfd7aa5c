"""Rerun a branch's stages in a copy of its work tree, and make its bundle without sight of the test cells.

Nothing of the branch is imported here: its stages run as separate processes, as dvc.yaml lists them.
"""

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from dvc.utils.fs import remove

from ci import outputs, revisions
from ci.comparison import Plain, accepted
from ci.revisions import Revision
from malaria import bundle as bundle_format
from malaria import files, labels, paths, programs, tables
from malaria.errors import UserError
from malaria.train import processor

# Stages whose results also depend on the kind of processor, which training records (docs/ci.md).
OF_PROCESSOR = ("train", "evaluate", "export")
# What is replaced in the run that may not see the test cells. The stages that make it do not run there.
HIDDEN = (paths.RAW, paths.CELLS, paths.SPLITS)
_REPRO = ("repro", "--force", "--single-item", "--no-run-cache", "--no-commit")


class Output(Plain):
    """An output that was made twice. `first`: its hash before, as in dvc.lock; `again`: its hash now."""

    stage: str
    path: str
    first: str
    again: str

    @property
    def same(self) -> bool:
        return self.first == self.again


class Rerun(Plain):
    """The result of running stages again.

    frozen: stages that dvc.yaml freezes; if there are any, nothing was run. other_processor: whether the
    results in dvc.lock were made on another kind of processor than this machine's. blind: the trained model
    and what apps read of the bundle, compared with a run that could not see the test cells; the model alone
    if it differs, and empty if there was no such run. blind_error: why that run made no bundle. seconds:
    wall-clock time.
    """

    stages: tuple[str, ...]
    outputs: tuple[Output, ...] = ()
    frozen: tuple[str, ...] = ()
    other_processor: bool = False
    blind: tuple[Output, ...] = ()
    blind_error: str = ""
    seconds: float = 0


@contextmanager
def run(
    branch: Revision, stages: tuple[str, ...], judged: pd.DataFrame, blind: bool
) -> Iterator[tuple[Rerun, Path | None]]:
    """Run `stages` of the branch again, in a temporary copy of its work tree.

    Args:
        stages: in the order of the pipeline; with `train` among them, the blind run trains too.
        judged: the cells that no training may see; column sha256.
        blind: also make the bundle without sight of these cells.

    Yields:
        The result, and the folder of the copy's bundle; None for the folder if dvc.lock was made on this kind
        of processor.

    Raises:
        UserError: the branch's dvc.lock lacks one of the stages, or no stage `train` makes its network.
    """
    if missing := [stage for stage in stages if stage not in branch.lock]:
        raise UserError(
            f"dvc.lock has no stage {missing[0]}, which the base's gate.rerun runs again: keep the stage, or "
            "take it out of gate.rerun on the base first."
        )
    # Otherwise nothing shows where the network comes from.
    if blind and revisions.order(branch.folder, paths.MODEL)[-1:] != ["train"]:
        raise UserError(f"dvc.yaml has no stage train that makes {paths.MODEL}: keep its name and output.")
    frozen = revisions.frozen(branch.folder)
    if frozen or not (stages or blind):
        yield Rerun(stages=stages, frozen=frozen), None
        return
    start = time.monotonic()
    other_processor = _other_processor(branch.folder)
    outs: tuple[Output, ...] = ()
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary, "again")
        revisions.copy_of_work_tree(branch.folder, copy)
        programs.dvc("checkout", "--force", "--quiet", cwd=copy)
        for stage in stages:
            stage_outs = _pairs(stage, _hashes(branch.lock, stage), _reproduce(copy, stage))
            outs += stage_outs
            same = all(output.same for output in stage_outs)
            if not same and not (other_processor and stage in OF_PROCESSOR):
                # The next stages start from the outputs in dvc.lock, so that one difference is reported once.
                shutil.copyfile(branch.folder / outputs.LOCK, copy / outputs.LOCK)
                programs.dvc("checkout", "--force", "--quiet", stage, cwd=copy)
        others = [stage for stage in OF_PROCESSOR if stage not in stages]
        if other_processor and "train" in stages and others:
            _reproduce(copy, *others)
        rebuilt = copy / paths.BUNDLE if other_processor else None
        fields: dict[str, Any] = {"stages": stages, "outputs": outs, "other_processor": other_processor}
        if blind:
            model = {output.path: output.again for output in outs if output.stage == "train"}
            bundle = rebuilt or branch.folder / paths.BUNDLE
            try:
                fields["blind"] = _run_blind(branch, judged, model, bundle, Path(temporary, "blind"))
            except UserError as error:
                fields["blind_error"] = str(error)
        yield Rerun(seconds=round(time.monotonic() - start, 1), **fields), rebuilt


def _pairs(stage: str, first: dict[str, str], again: dict[str, str]) -> tuple[Output, ...]:
    return tuple(
        Output(stage=stage, path=path, first=first.get(path, "none"), again=again.get(path, "none"))
        for path in first | again
    )


def _app_files(bundle: Path) -> dict[str, str]:
    """SHA-256 by path of what apps read of a bundle: all but figures, card, manifest and recorded hashes."""
    ignored = {bundle_format.PARTS["figures"], bundle_format.CARD, bundle_format.MANIFEST}
    contents = {str(file.relative_to(bundle)): file for file in bundle.rglob("*") if file.is_file()}
    hashes = {name: files.sha256(file) for name, file in contents.items() if name not in ignored}
    # A record of another form is compared as it is.
    with suppress(OSError, ValueError, AttributeError):
        record = json.loads((bundle / bundle_format.RECORD).read_bytes())
        text = json.dumps({key: value for key, value in record.items() if key != "hashes"}, sort_keys=True)
        hashes[bundle_format.RECORD] = hashlib.sha256(text.encode()).hexdigest()
    return {f"{paths.BUNDLE}/{name}": sha256 for name, sha256 in hashes.items()}


def _other_processor(folder: Path) -> bool:
    """Whether training in `folder` recorded another kind of processor than this machine's."""
    record = folder / paths.PROCESSOR
    return record.is_file() and record.read_text(encoding="utf-8").strip() != processor.kind()


def _reproduce(folder: Path, *stages: str) -> dict[str, str]:
    """Run stages, even if DVC has their results; return the hashes of their outputs by path."""
    for line in programs.lines([*programs.DVC, *_REPRO, *stages], cwd=folder):
        print(f"[{folder.name}] {line}", flush=True)
    lock = revisions.lock_of(folder)
    return {path: md5 for stage in stages for path, md5 in _hashes(lock, stage).items()}


def _hashes(lock: dict[str, dict[str, list[dict[str, str]]]], stage: str) -> dict[str, str]:
    # A stage of another folder's dvc.yaml is in the lock file there.
    return {out["path"]: out["md5"] for out in lock[stage]["outs"]} if stage in lock else {}


def _run_blind(
    branch: Revision, judged: pd.DataFrame, model: dict[str, str], bundle: Path, folder: Path
) -> tuple[Output, ...]:
    """Make model and bundle in `folder`, where the test cells show other pictures, and compare them.

    Args:
        model: hashes of the trained model by path; empty if `train` does not run again (its model is used).
        bundle: the bundle to compare with.
    """
    revisions.copy_of_work_tree(branch.folder, folder)
    seeing = revisions.order(folder, *HIDDEN)
    stages = [name for name in revisions.order(folder, paths.BUNDLE) if name not in seeing]
    stages = [name for name in stages if model or name != "train"]
    # Also what `dvc add` tracks, such as a network to start from, but not the cells, which `fetch` reads.
    tracked, cells = revisions.outs(folder, of_stages=False), revisions.dependencies(folder, seeing)
    deps = revisions.dependencies(folder, stages)
    pairs = [(path, Path(dep)) for path in tracked for dep in deps if _overlaps(path, {dep})]
    needed = [path if path.is_relative_to(dep) else dep for path, dep in pairs]
    needed = [path for path in needed if not _overlaps(path, {*cells, *map(str, HIDDEN)})]
    needed += [] if model else [paths.MODEL]
    # Git may hold an output, and one of a stage that sees the test cells could tell of them.
    for path in revisions.outs(folder, of_stages=True):
        remove(folder / path)
    if needed:
        programs.dvc("checkout", "--force", "--quiet", *map(str, needed), cwd=folder)
    # An empty cache, so that no stage can get the cells from DVC.
    programs.use_dvc_cache(folder / ".dvc/tmp/cache", folder)
    _hide(branch, judged, folder)
    # The base's summary of the split, because the branch's could tell of the test cells, too. The judge runs
    # in the base's folder.
    (folder / paths.SPLIT_SUMMARY).parent.mkdir(exist_ok=True)
    shutil.copyfile(paths.SPLIT_SUMMARY, folder / paths.SPLIT_SUMMARY)
    until = stages.index("train") + 1 if "train" in stages else 0
    hashes = _reproduce(folder, *stages[:until]) if until else {}
    blind_model = {path: hashes.get(path, "none") for path in model}
    if blind_model != model:
        # What follows another model differs too, and tells nothing more.
        return _pairs("blind", model, blind_model)
    if stages[until:]:
        _reproduce(folder, *stages[until:])
    return _pairs("blind", model | _app_files(bundle), blind_model | _app_files(folder / paths.BUNDLE))


def _hide(branch: Revision, judged: pd.DataFrame, folder: Path) -> None:
    """Write the branch's cells and split into `folder`, with all cells hidden that are not for train or val.

    A hidden cell has the picture of one that is. Hidden labels alternate, since scoring needs both classes.
    """
    cells = accepted(branch).reset_index(drop=True)
    splits = tables.read(branch.folder / paths.SPLITS, tables.SPLITS)
    train_val = splits.path[splits.split != tables.TEST]
    hidden = (~cells.path.isin(train_val) | cells.sha256.isin(judged.sha256)).to_numpy(dtype=bool)
    source = np.arange(len(cells))
    source[hidden] = np.resize(source[~hidden], hidden.sum())
    blind = cells.iloc[source].reset_index(drop=True).assign(path=cells.path, patient=cells.patient)
    blind.loc[hidden, "label"] = np.resize(labels.LABELS, hidden.sum())
    # The same file may lie elsewhere, such as in the folder that `fetch` reads, if git holds it.
    hashes = {*judged.sha256, *cells.sha256[hidden]}
    for file in [file for file in folder.rglob("*") if file.is_file() and files.sha256(file) in hashes]:
        file.unlink()
    for path, source_path in zip(cells.path, cells.path[source], strict=True):
        (folder / paths.RAW / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(branch.folder / paths.RAW / source_path, folder / paths.RAW / path)
    tables.write(blind, folder / paths.CELLS, tables.CELLS)
    splits = splits.assign(label=splits.path.map(blind.set_index("path").label).fillna(splits.label))
    tables.write(splits, folder / paths.SPLITS, tables.SPLITS)


def _overlaps(path: Path, others: set[str]) -> bool:
    """Whether the path is, contains or lies in one of the others."""
    return any(path.is_relative_to(other) or Path(other).is_relative_to(path) for other in others)
