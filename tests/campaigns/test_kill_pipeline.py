"""Kill runs of the whole pipeline, and check that each ends with the right bytes: `make kill-pipeline`.

One run is left undisturbed. The others, each in a fresh clone with an empty DVC cache so that every stage
really works, are killed again and again, and in the end left to finish. Killed are the whole process group,
DVC alone, or the stage alone; in each stage, in the middle of training, while a result is written, while DVC
itself works. At the end of each run the hashes in dvc.lock must be those of the undisturbed one. The first
difference stops the campaign. The environment variables KILLS, KILLS_A_RUN and KILLS_SEED set the number of
kills at random moments, the number in each run, and the seed that draws stages, moments and victims.
"""

import functools
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from malaria import programs
from malaria.paths import CHECKPOINT, RUNNING, TRAINING
from tests.campaigns.repro_check import hashes, locked
from tests.support import project

pytestmark = pytest.mark.long

KILLS, A_RUN, SEED = (
    int(os.environ.get(name, usual)) for name, usual in (("KILLS", 0), ("KILLS_A_RUN", 10), ("KILLS_SEED", 1))
)
# Enough cells that stages start worker processes.
CELLS = {"data.sample.cells": 420} if KILLS else {}
EPOCHS = 20

LONG = 600.0  # s; a run that takes longer hangs
_LINGER = 60.0  # s within which orphans must end
# Words by which DVC reports that one of its own files is cut short, and that file.
_TORN = {"'dvc.lock'": "dvc.lock", "RWLock-file": ".dvc/tmp/rwlock"}
# Folders that stages write to.
_WRITTEN = ("data", "models", "reports", RUNNING)
# The first output of training: the epoch after which it goes on, or epoch 1 of a new training.
_TRAINS = re.compile(r"^(?:Going on after epoch (\d+)|Epoch 1/).*", re.MULTILINE)


@dataclass(frozen=True)
class Kill:
    """One kill. victim: DVC's process `group`, `dvc` alone, or the `stage` alone.

    moment: `clock`, when `stage` has begun; `write`, when it is seen writing a file; `epoch`, when `epoch` of
        the training has been kept; `start`, when DVC has begun.
    after: seconds from that moment.
    """

    stage: str
    victim: str
    moment: str
    after: float
    epoch: int = 0


@dataclass(frozen=True)
class Undisturbed:
    """An undisturbed run: DVC's hash of each output, SHA-256 of each file, seconds that each stage took."""

    repository: Path
    locked: dict[str, str]
    files: dict[str, str]
    lasts: dict[str, float]


@pytest.fixture
def longer(finished, tmp_path):
    """The finished repository, with enough epochs to kill training between two of them."""
    repository = tmp_path / "undisturbed"
    shutil.copytree(finished, repository)
    project.change(repository, {"train.epochs": EPOCHS, "train.patience": EPOCHS, **CELLS})
    # Without dvc.lock, so that clones begin with nothing done.
    project.git("commit", "-aqm", "more epochs", cwd=repository)
    project.run("dvc", "repro", cwd=repository)
    return repository


def test_killed_in_the_middle_of_training_and_elsewhere_the_pipeline_ends_with_the_same_bytes(
    longer, tmp_path
):
    expected = undisturbed(longer)
    print("undisturbed, seconds:", *(f"{name} {lasts:.1f}" for name, lasts in expected.lasts.items()))
    kills = [
        Kill("audit", "dvc", "write", 0.0),
        Kill("train", "group", "epoch", 0.0, epoch=1),
        Kill("evaluate", "stage", "clock", 0.0),
    ]
    happened = one_run(expected, kills, tmp_path)
    assert happened["kills"] == len(kills)
    assert happened["trainings taken up"]
    chance, most = random.Random(SEED), len(kills) + KILLS
    while happened["kills"] < most:
        happened += one_run(expected, draw(chance, min(A_RUN, most - happened["kills"]), expected), tmp_path)
        print(f"{happened['kills']} of {most} kills, and the right bytes", flush=True)
    print(*(f"{what} {count}" for what, count in happened.most_common()), sep=", ")


def undisturbed(repository: Path) -> Undisturbed:
    """Read a repository in which `dvc repro` has run."""
    stages = yaml.safe_load((repository / "dvc.lock").read_text())["stages"]
    ended = sorted(
        (max((repository / out["path"]).stat().st_mtime for out in stage["outs"]), name)
        for name, stage in stages.items()
    )
    begun = [(repository / ".git/COMMIT_EDITMSG").stat().st_mtime, *(end for end, _ in ended)]
    return Undisturbed(
        repository,
        locked(repository),
        hashes(repository, locked(repository)),
        {name: end - before for (end, name), before in zip(ended, begun, strict=False)},
    )


def one_run(expected: Undisturbed, kills: Sequence[Kill], work: Path) -> Counter[str]:
    """Run the pipeline in a fresh clone, kill it as `kills` says, and compare its results with `expected`.

    If the run ends before the moment of a kill, the kill does not count.

    Returns:
        How often each thing happened: `kills`, their victims, moments and stages, `trainings taken up`, and
        torn files.

    Raises:
        AssertionError: a process, file or hash is not as it must be.
    """
    repository, happened = work / "run", Counter[str]()
    project.git("clone", "-q", str(expected.repository), str(repository), cwd=work)
    # DVC's files outside of a repository must be this clone's own.
    site = repository / ".dvc/tmp/site"
    programs.dvc("config", "--local", "core.site_cache_dir", str(site), cwd=repository)
    for metric in expected.locked:
        # The outputs that git keeps are those of other data.
        (repository / metric).unlink(missing_ok=True)
    for kill in [*kills, None]:
        if not _attempt(repository, kill, expected, happened):
            break
    _check_the_end(repository, expected)
    shutil.rmtree(repository)
    return happened


def draw(chance: random.Random, count: int, expected: Undisturbed) -> list[Kill]:
    """Kills for one run, in the order of the stages; one of them is in the middle of training."""
    kills = []
    for number in range(count):
        victim = chance.choices(("group", "dvc", "stage"), (5, 4, 1))[0]
        stage = chance.choice(list(expected.lasts)) if number else "train"
        moment = chance.choices(("clock", "write", "start"), (6, 3, 1))[0] if number else "epoch"
        most = {"clock": 1.2 * expected.lasts[stage], "write": 0.02, "start": 4, "epoch": 0.1}[moment]
        after, epoch = chance.uniform(0, most), chance.randrange(EPOCHS - 1)
        kills.append(Kill(stage, victim, moment, after, epoch))
    return sorted(kills, key=lambda kill: list(expected.lasts).index(kill.stage))


def _attempt(repository: Path, kill: Kill | None, expected: Undisturbed, happened: Counter[str]) -> bool:
    """Run `dvc repro` until `kill` or to its end, and check what it leaves; False if it ended well."""
    kept, run = _epochs_kept(repository), _Run(repository)
    family = run.killed(kill, expected) if kill else None
    run.process.wait(LONG)
    if kept and (found := _TRAINS.search(run.said())):
        happened["trainings taken up"] += 1
        assert found[1] == str(kept), f"{kept} epochs were kept, but training says {found[0]!r}"
    if kill and family is not None:
        happened.update(["kills", kill.victim, kill.moment, kill.stage])
        _, left = psutil.wait_procs(family, timeout=_LINGER)
        assert not left, f"{kill}: {left} live on"
        _check_after(kill, repository, expected)
        print(f"{kill}: nothing half", flush=True)
        return True
    if run.process.returncode == 0:
        return False
    torn = next((file for sign, file in _TORN.items() if sign in run.said()), None)
    assert torn, f"dvc repro failed: {run.said()[-500:]}"
    # The kill before has cut DVC's own file short; DVC's advice is to remove it.
    (repository / torn).unlink()
    happened[f"{torn} torn"] += 1
    return _attempt(repository, kill, expected, happened)


class _Run:
    """A running `dvc repro`, whose output goes into a file."""

    def __init__(self, repository: Path) -> None:
        self.repository, self.log = repository, repository / ".dvc/tmp/said"
        self.log.parent.mkdir(exist_ok=True)
        with self.log.open("wb") as log:
            streams = {"stdout": log, "stderr": subprocess.STDOUT}
            command = [*programs.DVC, "repro"]
            self.process = programs.start(command, cwd=repository, start_new_session=True, **streams)

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def killed(self, kill: Kill, expected: Undisturbed) -> list[psutil.Process] | None:
        """Kill DVC, its stage, or the whole group, at the moment of `kill`.

        Returns:
            The processes that DVC had started; None if the run ends before that moment.
        """
        lasts, later = expected.lasts[kill.stage], list(expected.lasts)
        begins = [f"Running stage '{name}'" for name in later[later.index(kill.stage) :]]
        if kill.moment != "start":
            self._wait(lambda: self._says(begins), LONG)
        if kill.moment == "write":
            before = _parts(self.repository)
            self._wait(lambda: _parts(self.repository) - before, 1.2 * lasts)
        if kill.moment == "epoch":
            kept = functools.partial(_epochs_kept, self.repository)
            self._wait(lambda: kept() > kill.epoch or self._says(begins[1:]), LONG)
        self._wait(lambda: False, kill.after)
        if self.process.poll() is not None:
            return None
        stages, family = [], psutil.Process(self.process.pid).children(recursive=True)
        for process in family:
            with suppress(psutil.Error):
                stages += [process] if "stages." in " ".join(process.cmdline()) else []
        if kill.victim == "dvc":
            self.process.kill()
        elif kill.victim == "stage" and stages:
            with suppress(psutil.NoSuchProcess):
                stages[0].kill()
        else:
            os.killpg(self.process.pid, signal.SIGKILL)
        return family

    def _says(self, texts: list[str]) -> bool:
        return any(text in self.said() for text in texts)

    def _wait(self, happens: Callable[[], object], patience: float) -> None:
        due = time.monotonic() + patience
        while not happens() and self.process.poll() is None and time.monotonic() < due:
            time.sleep(0.001)


def _parts(repository: Path) -> set[Path]:
    """Files that are being written, or were when their writer was killed."""
    return {path for folder in _WRITTEN for path in (repository / folder).glob(".*.part*")}


def _epochs_kept(repository: Path) -> int:
    """How many epochs the checkpoint holds, 0 without one; fails if it is not whole."""
    try:
        with np.load(repository / CHECKPOINT, allow_pickle=False) as kept:
            return sum(name.startswith("history/") for name in kept.files)
    except FileNotFoundError:
        return 0


def _check_after(kill: Kill, repository: Path, expected: Undisturbed) -> None:
    """Check that a kill has left no file under its final name with other bytes than it should have.

    The log of a training does not count: it grows line by line, and DVC, which has no hash of it yet, removes
    it before the next run.
    """
    _epochs_kept(repository)
    changed = hashes(repository, expected.locked).items() - expected.files.items()
    half = [path for path, _ in changed if not path.startswith(f"{TRAINING}/")]
    assert not half, f"{kill}: half is {half}"
    others = locked(repository).items() - expected.locked.items()
    assert not others, f"{kill}: dvc.lock has another hash of {others}"


def _check_the_end(repository: Path, expected: Undisturbed) -> None:
    """Check that nothing differs from the undisturbed run, and that no temporary file is left."""
    differing = expected.locked.items() - locked(repository).items()
    assert not differing, f"dvc.lock has other hashes than {differing}"
    assert hashes(repository, expected.locked) == expected.files, "the files differ from what dvc.lock says"
    for path in (repository / ".dvc/cache/files/md5").glob("*/*"):
        digest = hashlib.md5(path.read_bytes()).hexdigest()
        assert digest == path.parent.name + path.name.removesuffix(".dir"), f"{path} has other bytes"
    # The checkpoint stays until the next training finds that DVC has recorded this one.
    left = [path for folder in _WRITTEN for path in (repository / folder).rglob("*.part*")]
    assert not left, f"left over are {left}"
