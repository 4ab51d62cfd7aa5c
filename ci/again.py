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
_SINGLE = ("repro", "--force", "--single-item", "--no-run-cache", "--no-commit")


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

    frozen: stages that dvc.yaml freezes; if there are any, nothing was run. elsewhere: whether the results in
    dvc.lock were made on another kind of processor than this machine's. blind: the trained model and what
    apps read of the bundle, compared with a run that could not see the test cells; the model alone if it
    differs, and empty if there was no such run. unmade: why that run made no bundle. seconds: wall-clock
    time.
    """

    stages: tuple[str, ...]
    outputs: tuple[Output, ...] = ()
    frozen: tuple[str, ...] = ()
    elsewhere: bool = False
    blind: tuple[Output, ...] = ()
    unmade: str = ""
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
    # Else nothing shows where the network comes from.
    if blind and revisions.order(branch.folder, paths.MODEL)[-1:] != ["train"]:
        raise UserError(f"dvc.yaml has no stage train that makes {paths.MODEL}: keep its name and output.")
    frozen = revisions.frozen(branch.folder)
    if frozen or not (stages or blind):
        yield Rerun(stages=stages, frozen=frozen), None
        return
    begun = time.monotonic()
    elsewhere = _made_elsewhere(branch.folder)
    outs: tuple[Output, ...] = ()
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary, "again")
        revisions.copy_of_work_tree(branch.folder, copy)
        programs.dvc("checkout", "--force", "--quiet", cwd=copy)
        for stage in stages:
            made = _compared(stage, _hashes(branch.lock, stage), _once_more(copy, stage))
            outs += made
            if not all(output.same for output in made) and not (elsewhere and stage in OF_PROCESSOR):
                # The next stages start from the outputs in dvc.lock, so that one difference is reported once.
                shutil.copyfile(branch.folder / outputs.LOCK, copy / outputs.LOCK)
                programs.dvc("checkout", "--force", "--quiet", stage, cwd=copy)
        others = [stage for stage in OF_PROCESSOR if stage not in stages]
        if elsewhere and "train" in stages and others:
            _once_more(copy, *others)
        here = copy / paths.BUNDLE if elsewhere else None
        made_blind: dict[str, Any] = {}
        if blind:
            seen = {output.path: output.again for output in outs if output.stage == "train"}
            bundle = here or branch.folder / paths.BUNDLE
            try:
                made_blind = {"blind": _unseen(branch, judged, seen, bundle, Path(temporary, "blind"))}
            except UserError as error:
                made_blind = {"unmade": str(error)}
        seconds = round(time.monotonic() - begun, 1)
        yield Rerun(stages=stages, outputs=outs, elsewhere=elsewhere, seconds=seconds, **made_blind), here


def _compared(stage: str, first: dict[str, str], again: dict[str, str]) -> tuple[Output, ...]:
    return tuple(
        Output(stage=stage, path=path, first=first.get(path, "none"), again=again.get(path, "none"))
        for path in first | again
    )


def _read_by_apps(bundle: Path) -> dict[str, str]:
    """SHA-256 by path of what apps read of a bundle: all but figures, card, manifest and recorded hashes."""
    own = {bundle_format.PARTS["figures"], bundle_format.CARD, bundle_format.MANIFEST}
    held = {str(file.relative_to(bundle)): file for file in bundle.rglob("*") if file.is_file()}
    kept = {name: files.sha256(file) for name, file in held.items() if name not in own}
    # A record of another form is compared as it is.
    with suppress(OSError, ValueError, AttributeError):
        record = json.loads((bundle / bundle_format.RECORD).read_bytes())
        told = json.dumps({key: value for key, value in record.items() if key != "hashes"}, sort_keys=True)
        kept[bundle_format.RECORD] = hashlib.sha256(told.encode()).hexdigest()
    return {f"{paths.BUNDLE}/{name}": found for name, found in kept.items()}


def _made_elsewhere(folder: Path) -> bool:
    """Whether training in `folder` recorded another kind of processor than this machine's."""
    record = folder / paths.PROCESSOR
    return record.is_file() and record.read_text(encoding="utf-8").strip() != processor.kind()


def _once_more(folder: Path, *stages: str) -> dict[str, str]:
    """Run stages, even if DVC has their results; return the hashes of their outputs by path."""
    for line in programs.lines([*programs.DVC, *_SINGLE, *stages], cwd=folder):
        print(f"[{folder.name}] {line}", flush=True)
    lock = revisions.lock_of(folder)
    return {path: md5 for stage in stages for path, md5 in _hashes(lock, stage).items()}


def _hashes(lock: dict[str, dict[str, list[dict[str, str]]]], stage: str) -> dict[str, str]:
    # A stage of another folder's dvc.yaml is in the lock file there.
    return {out["path"]: out["md5"] for out in lock[stage]["outs"]} if stage in lock else {}


def _unseen(
    branch: Revision, judged: pd.DataFrame, seen: dict[str, str], bundle: Path, folder: Path
) -> tuple[Output, ...]:
    """Make model and bundle in `folder`, where the test cells show other pictures, and compare them.

    Args:
        seen: hashes of the trained model by path; empty if `train` does not run again (its model is used).
        bundle: the bundle to compare with.
    """
    revisions.copy_of_work_tree(branch.folder, folder)
    seeing = revisions.order(folder, *HIDDEN)
    stages = [name for name in revisions.order(folder, paths.BUNDLE) if name not in seeing]
    unseeing = [name for name in stages if seen or name != "train"]
    # Also what `dvc add` tracks, such as a network to start from, but not the cells, which `fetch` reads.
    added, cells = revisions.added(folder), revisions.reads(folder, seeing) | set(map(str, HIDDEN))
    read = revisions.reads(folder, unseeing)
    asked = [(path, Path(dep)) for path in added for dep in read if _touches(path, {dep})]
    needed = [path if path.is_relative_to(dep) else dep for path, dep in asked]
    needed = [path for path in needed if not _touches(path, cells)] + ([] if seen else [paths.MODEL])
    # Git may hold an output, and one of a stage that sees the test cells could tell of them.
    for path in revisions.made(folder):
        remove(folder / path)
    if needed:
        programs.dvc("checkout", "--force", "--quiet", *map(str, needed), cwd=folder)
    # An empty cache, so that no stage can get the cells from DVC.
    programs.use_dvc_cache(folder / ".dvc/tmp/cache", folder)
    _hide(branch, judged, folder)
    # The base's, for the same reason: the judge runs in its folder.
    (folder / paths.SPLIT_SUMMARY).parent.mkdir(exist_ok=True)
    shutil.copyfile(paths.SPLIT_SUMMARY, folder / paths.SPLIT_SUMMARY)
    until = unseeing.index("train") + 1 if "train" in unseeing else 0
    made = _once_more(folder, *unseeing[:until]) if until else {}
    model = {path: made.get(path, "none") for path in seen}
    if model != seen:
        # What follows another model differs too, and tells nothing more.
        return _compared("blind", seen, model)
    if unseeing[until:]:
        _once_more(folder, *unseeing[until:])
    return _compared("blind", seen | _read_by_apps(bundle), model | _read_by_apps(folder / paths.BUNDLE))


def _hide(branch: Revision, judged: pd.DataFrame, folder: Path) -> None:
    """Write the branch's cells and split into `folder`, with all cells hidden that are not for train or val.

    A hidden cell has the picture of one that is. Hidden labels alternate, since scoring needs both classes.
    """
    cells = accepted(branch).reset_index(drop=True)
    splits = tables.read(branch.folder / paths.SPLITS, tables.SPLITS)
    used = splits.path[splits.split != tables.TEST]
    hidden = (~cells.path.isin(used) | cells.sha256.isin(judged.sha256)).to_numpy(dtype=bool)
    shows = np.arange(len(cells))
    shows[hidden] = np.resize(shows[~hidden], hidden.sum())
    blind = cells.iloc[shows].reset_index(drop=True).assign(path=cells.path, patient=cells.patient)
    blind.loc[hidden, "label"] = np.resize(labels.LABELS, hidden.sum())
    # The same file may lie elsewhere, such as in the folder that `fetch` reads, if git holds it.
    unseen = {*judged.sha256, *cells.sha256[hidden]}
    for file in [file for file in folder.rglob("*") if file.is_file() and files.sha256(file) in unseen]:
        file.unlink()
    for path, shown in zip(cells.path, cells.path[shows], strict=True):
        (folder / paths.RAW / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(branch.folder / paths.RAW / shown, folder / paths.RAW / path)
    tables.write(blind, folder / paths.CELLS, tables.CELLS)
    splits = splits.assign(label=splits.path.map(blind.set_index("path").label).fillna(splits.label))
    tables.write(splits, folder / paths.SPLITS, tables.SPLITS)


def _touches(path: Path, read: set[str]) -> bool:
    return any(path.is_relative_to(dep) or Path(dep).is_relative_to(path) for dep in read)
