"""Run a branch's stages again, in a copy of its work tree, and its training once more without the test cells.

Nothing of the branch is imported here: its stages run as processes of their own, as dvc.yaml has them.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from ci import outputs, revisions
from ci.comparison import Plain
from ci.revisions import Revision
from malaria import files, labels, paths, programs, tables
from malaria.cells import packed

# What these write depends on the kind of processor too, which training records (docs/ci.md).
OF_PROCESSOR = ("train", "evaluate", "export")
_SINGLE = ("repro", "--force", "--single-item", "--no-run-cache", "--no-commit")


class Output(Plain):
    """An output of a stage that was run again: DVC's hash in the branch's dvc.lock, and of this time."""

    stage: str
    path: str
    first: str
    again: str

    @property
    def same(self) -> bool:
        return self.first == self.again


class Rerun(Plain):
    """What running stages again gave.

    frozen: stages of dvc.yaml that DVC does not run, so that nothing was run. elsewhere: dvc.lock's results
    were made on another kind of processor than this machine's. blind: the outputs of training beside those
    of a training that could not see the test cells; empty where none was needed.
    """

    stages: tuple[str, ...]
    outputs: tuple[Output, ...]
    frozen: tuple[str, ...]
    elsewhere: bool
    blind: tuple[Output, ...]
    seconds: float


@dataclass(frozen=True)
class Again:
    """What was found, and the branch's bundle to judge: where processors differ the one made here."""

    found: Rerun
    bundle: Path


@contextmanager
def run(branch: Revision, stages: tuple[str, ...], judged: pd.DataFrame) -> Iterator[Again]:
    """Run `stages` of the branch again.

    Args:
        stages: in their order; with `train` among them, training is also run blind.
        judged: the cells that no training may look at, with their sha256.
    """
    frozen = _frozen(branch.folder)
    if frozen or not stages:
        nothing = Rerun(stages=stages, outputs=(), frozen=frozen, elsewhere=False, blind=(), seconds=0)
        yield Again(nothing, branch.folder / paths.BUNDLE)
        return
    begun = time.monotonic()
    compared: list[Output] = []
    elsewhere = False
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary, "again")
        revisions.copy_of_work_tree(branch.folder, copy)
        programs.dvc("checkout", "--force", "--quiet", cwd=copy)
        for stage in stages:
            claimed, found = _hashes(branch.lock, stage), _once_more(copy, stage)
            made = [
                Output(stage=stage, path=path, first=claimed[path], again=found[path]) for path in claimed
            ]
            compared += made
            if all(output.same for output in made):
                continue
            if stage in OF_PROCESSOR and not elsewhere:
                elsewhere = _made_elsewhere(branch, copy, trained="train" in stages)
            if not (elsewhere and stage in OF_PROCESSOR):
                # The next stages start from the lock's own outputs, or one difference is told as many.
                _restore(branch, copy, stage)
        if elsewhere and "train" in stages:
            for stage in [stage for stage in OF_PROCESSOR if stage not in stages]:
                _once_more(copy, stage)
        blind = _blind(branch, judged, compared, Path(temporary, "blind")) if "train" in stages else ()
        told = Rerun(
            stages=stages,
            outputs=tuple(compared),
            frozen=(),
            elsewhere=elsewhere,
            blind=blind,
            seconds=round(time.monotonic() - begun, 1),
        )
        yield Again(told, (copy if elsewhere else branch.folder) / paths.BUNDLE)


def _made_elsewhere(branch: Revision, copy: Path, trained: bool) -> bool:
    """Whether training records another kind of processor in the copy than in the branch's results."""
    if not trained:
        _once_more(copy, "train")
    here, there = ((folder / paths.PROCESSOR) for folder in (copy, branch.folder))
    differs = here.is_file() and there.is_file() and here.read_bytes() != there.read_bytes()
    if not trained:
        _restore(branch, copy, "train")
    return differs


def _restore(branch: Revision, copy: Path, stage: str) -> None:
    shutil.copyfile(branch.folder / outputs.LOCK, copy / outputs.LOCK)
    programs.dvc("checkout", "--force", "--quiet", stage, cwd=copy)


def _once_more(folder: Path, stage: str) -> dict[str, str]:
    """Run a stage, whatever DVC knows of it; the hashes of its outputs."""
    for line in programs.lines([*programs.DVC, *_SINGLE, stage], cwd=folder):
        print(f"[{folder.name}] {line}", flush=True)
    return _hashes(revisions.lock_of(folder), stage)


def _hashes(lock: dict[str, dict[str, list[dict[str, str]]]], stage: str) -> dict[str, str]:
    return {out["path"]: out["md5"] for out in lock[stage]["outs"]}


def _blind(branch: Revision, judged: pd.DataFrame, seen: list[Output], folder: Path) -> tuple[Output, ...]:
    """Train in `folder`, where every cell that is not to be trained on is black and uninfected."""
    revisions.copy_of_work_tree(branch.folder, folder)
    programs.dvc("checkout", "--force", "--quiet", str(paths.PACKED), str(paths.SPLITS), cwd=folder)
    # Nor is there a way back to the cells by DVC's cache.
    programs.dvc("config", "--local", "--unset", "cache.dir", cwd=folder)
    splits = tables.read(folder / paths.SPLITS, tables.SPLITS)
    held = packed.load(folder / paths.PACKED)
    used = splits.path[splits.split != tables.TEST]
    hidden = ~held.index.path.isin(used) | held.index.sha256.isin(judged.sha256)
    pixels = np.array(held.images)
    pixels[hidden.to_numpy()] = 0
    index = held.index.assign(label=held.index.label.mask(hidden, labels.UNINFECTED))
    splits = splits.assign(
        label=splits.label.mask(splits.path.isin(held.index.path[hidden]), labels.UNINFECTED)
    )
    with files.atomic_folder(folder / paths.PACKED) as part:
        np.save(part / packed.ARRAY, pixels)
        tables.write(index, part / packed.INDEX, tables.INDEX)
    tables.write(splits, folder / paths.SPLITS, tables.SPLITS)
    blind = _once_more(folder, "train")
    return tuple(
        Output(stage="train", path=output.path, first=output.again, again=blind[output.path])
        for output in seen
        if output.stage == "train"
    )


def _frozen(folder: Path) -> tuple[str, ...]:
    content = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))
    return tuple(name for name, stage in content["stages"].items() if stage.get("frozen"))
