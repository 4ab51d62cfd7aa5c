"""Kill runs of the whole pipeline again and again, and compare their results with an undisturbed run.

Each run begins in a fresh clone with an empty DVC cache, so that every stage really works. It is killed
several times, started again each time, and in the end left to finish.
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
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import yaml

from malaria import files, programs
from malaria.paths import CHECKPOINT, RUNNING, TRAINING
from tests.support.project import git

say = functools.partial(print, flush=True)

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


@dataclass
class Report:
    """What happened in a campaign.

    runs: how many came to their end. resumed: epochs that a training had kept when it went on. lingered:
    seconds that processes lived on after DVC was killed. removed: torn files of DVC.
    """

    kills: list[Kill] = field(default_factory=list)
    runs: int = 0
    resumed: list[int] = field(default_factory=list)
    lingered: list[float] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Undisturbed:
    """An undisturbed run: DVC's hash of each output, SHA-256 of each file, seconds that each stage took."""

    repository: Path
    locked: dict[str, str]
    files: dict[str, str]
    lasts: dict[str, float]
    epochs: int


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
        yaml.safe_load((repository / "params.yaml").read_text())["train"]["epochs"],
    )


def locked(repository: Path) -> dict[str, str]:
    """DVC's hash of each output in dvc.lock; empty if the file is missing or cut short."""
    try:
        content = yaml.safe_load((repository / "dvc.lock").read_text())
        stages = content["stages"].values()
        return {out["path"]: out["md5"] for stage in stages for out in stage.get("outs", ())}
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return {}


def hashes(repository: Path, outs: Sequence[str] | dict[str, str]) -> dict[str, str]:
    """SHA-256 by path of the files in `outs` that exist."""
    found = (path for out in outs for path in (repository / out, *(repository / out).rglob("*")))
    return {str(path.relative_to(repository)): files.sha256(path) for path in found if path.is_file()}


def at_random(expected: Undisturbed, kills: int, a_run: int, seed: int, work: Path, report: Report) -> None:
    """Kill `kills` times at random moments, about `a_run` times in each run."""
    chance, end = random.Random(seed), len(report.kills) + kills
    while len(report.kills) < end:
        one_run(expected, draw(chance, min(a_run, end - len(report.kills)), expected), work, report)


def one_run(expected: Undisturbed, kills: Sequence[Kill], work: Path, report: Report) -> None:
    """Run the pipeline in a fresh clone, kill it as `kills` says, and compare its results with `expected`.

    If the run ends before the moment of a kill, the kill does not count.

    Raises:
        AssertionError: a process, file or hash is not as it must be.
    """
    repository = work / f"run{report.runs}"
    git("clone", "-q", str(expected.repository), str(repository), cwd=work)
    # DVC's files outside of a repository must be this clone's own.
    site = repository / ".dvc/tmp/site"
    programs.dvc("config", "--local", "core.site_cache_dir", str(site), cwd=repository)
    for metric in expected.locked:
        # The outputs that git keeps are those of other data.
        (repository / metric).unlink(missing_ok=True)
    for kill in [*kills, None]:
        if not _attempt(repository, kill, expected, report):
            break
    report.runs += 1
    _check_the_end(repository, expected)
    say(f"run {report.runs}: the right bytes")
    shutil.rmtree(repository)


def draw(chance: random.Random, count: int, expected: Undisturbed) -> list[Kill]:
    """Kills for one run, in the order of the stages; one of them is in the middle of training."""
    kills = []
    for number in range(count):
        victim = chance.choices(("group", "dvc", "stage"), (5, 4, 1))[0]
        stage = chance.choice(list(expected.lasts)) if number else "train"
        moment = chance.choices(("clock", "write", "start"), (6, 3, 1))[0] if number else "epoch"
        most = {"clock": 1.2 * expected.lasts[stage], "write": 0.02, "start": 4, "epoch": 0.1}[moment]
        after, epoch = chance.uniform(0, most), chance.randrange(expected.epochs - 1)
        kills.append(Kill(stage, victim, moment, after, epoch))
    return sorted(kills, key=lambda kill: list(expected.lasts).index(kill.stage))


def _attempt(repository: Path, kill: Kill | None, expected: Undisturbed, report: Report) -> bool:
    """Run `dvc repro` until `kill` or to its end, and check what it leaves; False if it ended well."""
    kept, run = _epochs_kept(repository), _Run(repository)
    family = run.killed(kill, expected) if kill else None
    run.process.wait(LONG)
    if kept and (found := _TRAINS.search(run.said())):
        report.resumed.append(kept)
        assert found[1] == str(kept), f"{kept} epochs were kept, but training says {found[0]!r}"
    if kill and family is not None:
        report.kills.append(kill)
        begun = time.monotonic()
        _, left = psutil.wait_procs(family, timeout=_LINGER)
        assert not left, f"{kill}: {left} live on"
        if kill.victim == "dvc":
            report.lingered.append(time.monotonic() - begun)
        _check_after(kill, repository, expected)
        say(f"kill {len(report.kills)}: {kill}: nothing half")
        return True
    if run.process.returncode == 0:
        return False
    torn = next((file for sign, file in _TORN.items() if sign in run.said()), None)
    assert torn, f"dvc repro failed: {run.said()[-500:]}"
    # The kill before has cut DVC's own file short; DVC's advice is to remove it.
    (repository / torn).unlink()
    report.removed.append(torn)
    say(f"DVC says that its {torn} is torn; it is removed")
    return _attempt(repository, kill, expected, report)


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
        family, stages = [], []
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(self.process.pid).children(recursive=True)
        for process in family:
            with suppress(psutil.Error):
                stages += [process] if "stages." in " ".join(process.cmdline()) else []
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if kill.victim == "dvc":
                self.process.kill()
            elif kill.victim == "stage" and stages:
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
