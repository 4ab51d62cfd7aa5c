"""Runs of the whole pipeline that are killed again and again, and compared with one that never was.

Each run begins in a fresh clone with an empty DVC cache, so that every stage really works. It is killed
a number of times, taken up again each time, and then let come to its end.
"""

import hashlib
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import yaml

from malaria.paths import CHECKPOINT, RUNNING, TRAINING
from tests.support.project import git

Say = Callable[[str], None]

LONG = 600.0  # s; what takes so long hangs
_LINGER = 60.0  # s in which orphans must have ended
# What DVC says of a file of its own that a kill has cut short, and that file.
_TORN = {"'dvc.lock'": "dvc.lock", "RWLock-file": ".dvc/tmp/rwlock"}
# What a training says first: where it goes on, or the first epoch of a new one.
_TRAINS = re.compile(r"Going on after epoch (\d+)|Epoch 1/")


@dataclass(frozen=True)
class Kill:
    """Who is killed (`group`, `dvc` or `stage`) and when.

    moment: `clock`, some time after `stage` began; `write`, where it is seen writing; `epoch`, some time
        after `epoch` of the training was kept; `start`, some time after DVC began.
    after: s from there.
    """

    stage: str
    victim: str
    moment: str
    after: float
    epoch: int = 0

    def __str__(self) -> str:
        where = {
            "clock": f"{self.after:.2f} s into {self.stage}",
            "write": f"as {self.stage} writes",
            "epoch": f"{self.after:.2f} s after epoch {self.epoch}",
            "start": f"{self.after:.2f} s after dvc began",
        }
        return f"{self.victim}, {where[self.moment]}"


@dataclass
class Report:
    """What a campaign found; `wrong` says, a sentence each, what must not be."""

    kills: list[Kill] = field(default_factory=list)
    runs: int = 0
    resumed: list[int] = field(default_factory=list)
    lingered: list[float] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Undisturbed:
    """A run that nobody killed: DVC's hash of each output, that of each file, how long stages took (s)."""

    repository: Path
    locked: dict[str, str]
    files: dict[str, str]
    lasts: dict[str, float]
    epochs: int


def undisturbed(repository: Path) -> Undisturbed:
    """Read a repository in which `dvc repro` has run."""
    stages = yaml.safe_load((repository / "dvc.lock").read_text())["stages"]
    ended = {
        name: max((repository / out["path"]).stat().st_mtime for out in stage["outs"])
        for name, stage in stages.items()
    }
    order = sorted(ended, key=lambda name: ended[name])
    begun = [(repository / ".git/COMMIT_EDITMSG").stat().st_mtime, *(ended[name] for name in order)]
    return Undisturbed(
        repository,
        locked(repository),
        hashes(repository, list(locked(repository))),
        {name: ended[name] - before for name, before in zip(order, begun, strict=False)},
        yaml.safe_load((repository / "params.yaml").read_text())["train"]["epochs"],
    )


def locked(repository: Path) -> dict[str, str]:
    """DVC's hash of each output in dvc.lock; empty where there is no such file, or half of one."""
    try:
        content = yaml.safe_load((repository / "dvc.lock").read_text())
        return {out["path"]: out["md5"] for stage in content["stages"].values() for out in stage["outs"]}
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return {}


def hashes(repository: Path, outs: list[str]) -> dict[str, str]:
    """The SHA-256 of each file in `outs`, as far as they are there."""
    found = [repository / out for out in outs]
    found += [path for out in found for path in out.rglob("*")]
    return {
        str(path.relative_to(repository)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
        if path.is_file()
    }


def campaign(
    expected: Undisturbed, kills: int, a_run: int, seed: int, work: Path, say: Say = print
) -> Report:
    """Kill `kills` times, about `a_run` times before each run's end."""
    report, chance = Report(), random.Random(seed)
    while len(report.kills) < kills:
        one_run(expected, draw(chance, min(a_run, kills - len(report.kills)), expected), work, report, say)
    return report


def one_run(
    expected: Undisturbed, kills: Sequence[Kill], work: Path, report: Report, say: Say = print
) -> None:
    """Run the pipeline in a fresh clone, killed as `kills` says, and compare what comes of it in the end.

    A kill that would come after the end is none.
    """
    repository = work / f"run{report.runs}"
    git("clone", "-q", str(expected.repository), str(repository), cwd=work)
    for metric in expected.locked:
        # What git keeps of the outputs are other data's.
        (repository / metric).unlink(missing_ok=True)
    for kill in [*kills, None]:
        if _attempt(repository, kill, expected, report, say) == "ended":
            break
    report.runs += 1
    found = _after_the_end(repository, expected)
    report.wrong += found
    say(f"run {report.runs}: {'WRONG: ' + '; '.join(found) if found else 'the right bytes'}")
    shutil.rmtree(repository)


def draw(chance: random.Random, count: int, expected: Undisturbed) -> list[Kill]:
    """Kills for one run, in the order of the stages; the first drawn is in the middle of training."""
    kills = []
    for number in range(count):
        victim = chance.choices(("group", "dvc", "stage"), (5, 4, 1))[0]
        stage = chance.choice(list(expected.lasts)) if number else "train"
        moment = chance.choices(("clock", "write", "start"), (6, 3, 1))[0] if number else "epoch"
        after = {
            "clock": chance.uniform(0, 1.2 * expected.lasts[stage]),
            "write": chance.uniform(0, 0.02),
            "start": chance.uniform(0, 4),
            "epoch": chance.uniform(0, 0.1),
        }[moment]
        kills.append(Kill(stage, victim, moment, after, chance.randrange(expected.epochs - 1)))
    return sorted(kills, key=lambda kill: list(expected.lasts).index(kill.stage))


def _attempt(repository: Path, kill: Kill | None, expected: Undisturbed, report: Report, say: Say) -> str:
    """Run `dvc repro` until `kill` or to its end, and look at what it leaves: `killed`, `ended`, `failed`."""
    kept = _epochs_kept(repository)
    run = _Run(repository)
    happened = run.until(kill, expected) if kill else run.to_the_end()
    for line in run.lines:
        if kept and (found := _TRAINS.match(line)):
            report.resumed.append(kept)
            if found[1] != str(kept):
                report.wrong.append(f"{kept} epochs were kept, but training says {line!r}")
            break
    if happened == "killed" and kill:
        report.kills.append(kill)
        lingered, left = run.orphans()
        if kill.victim == "dvc":
            report.lingered.append(lingered)
        found = [f"process {process} lives on" for process in left] + _after_a_kill(repository, expected)
        report.wrong += found
        say(f"kill {len(report.kills)}: {kill}: {'WRONG: ' + '; '.join(found) if found else 'nothing half'}")
        return "killed"
    if happened == "ended":
        return "ended"
    torn = [file for sign, file in _TORN.items() if sign in happened]
    if not torn:
        report.wrong.append(f"dvc repro failed: {happened}")
        say(f"WRONG: {report.wrong[-1]}")
        return "failed"
    # DVC's own file, cut short by the kill before, and DVC's own advice.
    (repository / torn[0]).unlink()
    report.mended.append(torn[0])
    say(f"DVC says that its {torn[0]} is torn; it is removed")
    return _attempt(repository, kill, expected, report, say)


class _Run:
    """A running `dvc repro`, and what it says, line by line."""

    def __init__(self, repository: Path) -> None:
        self.repository = repository
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_SITE_CACHE_DIR": str(repository / ".dvc/tmp/site"),
        }
        self.process = subprocess.Popen(
            ["dvc", "repro"],
            cwd=repository,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.begun = time.monotonic()
        self.lines: list[str] = []
        self.said: queue.Queue[str | None] = queue.Queue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self.family: list[psutil.Process] = []

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line.strip())
            self.said.put(line.strip())
        self.said.put(None)

    def to_the_end(self) -> str:
        """`ended`, or what it said as it failed."""
        self.process.wait(LONG)
        self._close()
        return "ended" if self.process.returncode == 0 else " ".join(self.lines[-5:])

    def until(self, kill: Kill, expected: Undisturbed) -> str:
        """`killed`, or as `to_the_end` where it ended before."""
        if not self._wait_for(kill, expected):
            return self.to_the_end()
        root = psutil.Process(self.process.pid)
        try:
            self.family = root.children(recursive=True)
        except psutil.NoSuchProcess:
            self.family = []
        stages = [process for process in self.family if "stages." in " ".join(_command(process))]
        if kill.victim == "dvc":
            self.process.kill()
        elif kill.victim == "stage" and stages:
            _quietly(stages[0].kill)
        else:
            _quietly(lambda: os.killpg(self.process.pid, signal.SIGKILL))
        self.process.wait(LONG)
        return "killed"

    def _wait_for(self, kill: Kill, expected: Undisturbed) -> bool:
        """Wait for the moment of `kill`; False where the run ends before."""
        if kill.moment == "start":
            return self._lives_until(self.begun + kill.after)
        order = list(expected.lasts)
        begun = ""
        while begun not in order or order.index(begun) < order.index(kill.stage):
            line = self.said.get(timeout=LONG)
            if line is None:
                return False
            begun = line.removeprefix("Running stage '").removesuffix("':")
        if kill.moment == "write":
            before = _parts(self.repository)
            self._poll(lambda: _parts(self.repository) - before, 1.2 * expected.lasts[begun])
        if kill.moment == "epoch" and begun == "train":
            self._poll(lambda: _epochs_kept(self.repository) > kill.epoch, LONG)
        return self._lives_until(time.monotonic() + kill.after)

    def _poll(self, happens: Callable[[], object], patience: float) -> None:
        due = time.monotonic() + patience
        while not happens() and self.process.poll() is None and time.monotonic() < due:
            time.sleep(0.001)

    def _lives_until(self, due: float) -> bool:
        try:
            self.process.wait(max(0.0, due - time.monotonic()))
        except subprocess.TimeoutExpired:
            return True
        return False

    def orphans(self) -> tuple[float, list[int]]:
        """How long (s) processes below DVC lived on, and those that still do."""
        begun = time.monotonic()
        _, left = psutil.wait_procs(self.family, timeout=_LINGER)
        lingered = time.monotonic() - begun
        self._close()
        return lingered, [process.pid for process in left]

    def _close(self) -> None:
        # There is an end to what is said once the last who could speak has ended.
        self.reader.join(_LINGER)
        if not self.reader.is_alive():
            self.process.stdout.close()


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def _quietly(kill: Callable[[], None]) -> None:
    """Kill what may have ended in the meantime."""
    with suppress(psutil.NoSuchProcess, ProcessLookupError):
        kill()


def _parts(repository: Path) -> set[Path]:
    """What is being written, or was when its writer was killed."""
    folders = (repository / folder for folder in ("data", "models", "reports", RUNNING))
    return {path for folder in folders for path in folder.glob(".*.part*")}


def _epochs_kept(repository: Path) -> int:
    """How many epochs the checkpoint holds; it is whole, or not there."""
    try:
        with np.load(repository / CHECKPOINT, allow_pickle=False) as kept:
            return sum(name.startswith("history/") for name in kept.files)
    except FileNotFoundError:
        return 0


def _after_a_kill(repository: Path, expected: Undisturbed) -> list[str]:
    """What a kill must not leave: a file under its final name with other bytes than it should have.

    The log of a training grows line by line while it runs. DVC has no hash of it then, and removes it
    before the next run.
    """
    found = hashes(repository, list(expected.locked))
    wrong = [
        f"{path} is half"
        for path, digest in found.items()
        if not path.startswith(f"{TRAINING}/") and expected.files.get(path) != digest
    ]
    wrong += [
        f"dvc.lock has another hash of {out}"
        for out, digest in locked(repository).items()
        if expected.locked[out] != digest
    ]
    _epochs_kept(repository)
    return wrong


def _after_the_end(repository: Path, expected: Undisturbed) -> list[str]:
    """What differs from the run that nobody killed, or is left over."""
    wrong = [
        f"{name} differs"
        for name, digest in expected.locked.items()
        if locked(repository).get(name) != digest
    ]
    if hashes(repository, list(expected.locked)) != expected.files:
        wrong.append("the files differ from what dvc.lock says")
    cache = repository / ".dvc/cache/files/md5"
    wrong += [
        f"DVC's cache holds {path.name} with other bytes"
        for path in cache.glob("*/*")
        if hashlib.md5(path.read_bytes()).hexdigest() != path.parent.name + path.name.removesuffix(".dir")
    ]
    wrong += [
        f"{path.relative_to(repository)} is left over"
        for folder in ("data", "models", "reports", RUNNING)
        for path in (repository / folder).rglob("*")
        # The checkpoint stays until the next training finds that DVC has recorded this one.
        if ".part" in path.name
    ]
    return wrong
