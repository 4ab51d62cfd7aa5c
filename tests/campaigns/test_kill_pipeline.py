"""Kill runs of the whole pipeline, and check that each ends with the right bytes: `make kill-pipeline`.

One run is undisturbed. Each other run gets a fresh clone with an empty DVC cache, so that every stage really
works; it is killed again and again, and then finishes. A kill ends the whole process group, DVC alone, or the
stage alone. It comes in any stage, in the middle of training, while a result is written, or while DVC itself
works. At the end of each run the hashes in dvc.lock must be those of the undisturbed one. The first
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
from tests.campaigns.repro_check import hashes, recorded_hashes
from tests.support import project

pytestmark = pytest.mark.long

KILLS = int(os.environ.get("KILLS", "0"))
A_RUN = int(os.environ.get("KILLS_A_RUN", "10"))
SEED = int(os.environ.get("KILLS_SEED", "1"))
# Enough cells that stages start worker processes.
CELLS = {"data.sample.cells": 420} if KILLS else {}
EPOCHS = 20

LONG = 600.0  # s; a run that takes longer hangs
_LINGER = 60.0  # s within which orphans must end
# Words by which DVC reports that one of its own files is cut short, and that file.
_TORN_FILES = {"'dvc.lock'": "dvc.lock", "RWLock-file": ".dvc/tmp/rwlock"}
# Folders that stages write to.
_OUTPUT_FOLDERS = ("data", "models", "reports", RUNNING)
# The first output of training: the epoch after which it goes on, or epoch 1 of a new training.
_TRAINING_START = re.compile(r"^(?:Going on after epoch (\d+)|Epoch 1/).*", re.MULTILINE)


@dataclass(frozen=True)
class Kill:
    """One kill. victim: DVC's process `group`, `dvc` alone, or the `stage` alone.

    moment: `clock`, when `stage` has begun; `write`, when it writes a file; `epoch`, when the checkpoint has
        `epoch` of the training; `start`, when DVC has begun.
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
    outputs: dict[str, str]
    files: dict[str, str]
    durations: dict[str, float]


@pytest.fixture
def long_training(finished, tmp_path):
    """The finished repository, with enough epochs to kill training between two of them."""
    repository = tmp_path / "undisturbed"
    shutil.copytree(finished, repository)
    project.change(repository, {"train.epochs": EPOCHS, "train.patience": EPOCHS, **CELLS})
    # Without dvc.lock, so that clones begin with nothing done.
    project.git("commit", "-aqm", "more epochs", cwd=repository)
    project.run("dvc", "repro", cwd=repository)
    return repository


def test_killed_in_the_middle_of_training_and_elsewhere_the_pipeline_ends_with_the_same_bytes(
    long_training, tmp_path
):
    expected = undisturbed(long_training)
    print("undisturbed, seconds:", *(f"{name} {seconds:.1f}" for name, seconds in expected.durations.items()))
    kills = [
        Kill("audit", "dvc", "write", 0.0),
        Kill("train", "group", "epoch", 0.0, epoch=1),
        Kill("evaluate", "stage", "clock", 0.0),
    ]
    events = run_and_kill(expected, kills, tmp_path)
    assert events["kills"] == len(kills)
    assert events["trainings taken up"]
    rng, total = random.Random(SEED), len(kills) + KILLS
    while events["kills"] < total:
        kills = draw_kills(rng, min(A_RUN, total - events["kills"]), expected)
        events += run_and_kill(expected, kills, tmp_path)
        print(f"{events['kills']} of {total} kills, and the right bytes", flush=True)
    print(*(f"{event} {count}" for event, count in events.most_common()), sep=", ")


def undisturbed(repository: Path) -> Undisturbed:
    """Read a repository in which `dvc repro` has run."""
    stages = yaml.safe_load((repository / "dvc.lock").read_text())["stages"]
    end_times = sorted(
        (max((repository / out["path"]).stat().st_mtime for out in stage["outs"]), name)
        for name, stage in stages.items()
    )
    start_times = [(repository / ".git/COMMIT_EDITMSG").stat().st_mtime, *(end for end, _ in end_times)]
    return Undisturbed(
        repository,
        recorded_hashes(repository),
        hashes(repository, recorded_hashes(repository)),
        {name: end - start for (end, name), start in zip(end_times, start_times, strict=False)},
    )


def run_and_kill(expected: Undisturbed, kills: Sequence[Kill], work: Path) -> Counter[str]:
    """Run the pipeline in a fresh clone, kill it as `kills` says, and compare its results with `expected`.

    If the run ends before the moment of a kill, the kill does not count.

    Returns:
        How often each thing happened: `kills`, their victims, moments and stages, `trainings taken up`, and
        torn files.

    Raises:
        AssertionError: a process, file or hash is not as it must be.
    """
    repository, events = work / "run", Counter[str]()
    project.git("clone", "-q", str(expected.repository), str(repository), cwd=work)
    # DVC's files outside of a repository must be this clone's own.
    site = repository / ".dvc/tmp/site"
    programs.dvc("config", "--local", "core.site_cache_dir", str(site), cwd=repository)
    for output in expected.outputs:
        # Git has some outputs, but of other data.
        (repository / output).unlink(missing_ok=True)
    for kill in [*kills, None]:
        if not _attempt(repository, kill, expected, events):
            break
    _check_the_end(repository, expected)
    shutil.rmtree(repository)
    return events


def draw_kills(rng: random.Random, count: int, expected: Undisturbed) -> list[Kill]:
    """Kills for one run, in the order of the stages; one of them is in the middle of training."""
    kills = []
    for number in range(count):
        victim = rng.choices(("group", "dvc", "stage"), (5, 4, 1))[0]
        stage = rng.choice(list(expected.durations)) if number else "train"
        moment = rng.choices(("clock", "write", "start"), (6, 3, 1))[0] if number else "epoch"
        longest = {"clock": 1.2 * expected.durations[stage], "write": 0.02, "start": 4, "epoch": 0.1}[moment]
        after, epoch = rng.uniform(0, longest), rng.randrange(EPOCHS - 1)
        kills.append(Kill(stage, victim, moment, after, epoch))
    return sorted(kills, key=lambda kill: list(expected.durations).index(kill.stage))


def _attempt(repository: Path, kill: Kill | None, expected: Undisturbed, events: Counter[str]) -> bool:
    """Run `dvc repro` until `kill` or to its end, and check what it leaves; False if it ended well."""
    epochs, run = _checkpoint_epochs(repository), _Run(repository)
    processes = run.kill_at(kill, expected) if kill else None
    run.process.wait(LONG)
    if epochs and (match := _TRAINING_START.search(run.output())):
        events["trainings taken up"] += 1
        assert match[1] == str(epochs), f"{epochs} epochs were kept, but training says {match[0]!r}"
    if kill and processes is not None:
        events.update(["kills", kill.victim, kill.moment, kill.stage])
        _, survivors = psutil.wait_procs(processes, timeout=_LINGER)
        assert not survivors, f"{kill}: {survivors} live on"
        _check_after(kill, repository, expected)
        print(f"{kill}: nothing half", flush=True)
        return True
    if run.process.returncode == 0:
        return False
    torn_file = next((torn_file for text, torn_file in _TORN_FILES.items() if text in run.output()), None)
    assert torn_file, f"dvc repro failed: {run.output()[-500:]}"
    # The last kill cut DVC's own file short; DVC's advice is to remove it.
    (repository / torn_file).unlink()
    events[f"{torn_file} torn"] += 1
    return _attempt(repository, kill, expected, events)


class _Run:
    """A running `dvc repro`, whose output goes into a file."""

    def __init__(self, repository: Path) -> None:
        self.repository, self.log = repository, repository / ".dvc/tmp/said"
        self.log.parent.mkdir(exist_ok=True)
        with self.log.open("wb") as log:
            streams = {"stdout": log, "stderr": subprocess.STDOUT}
            command = [*programs.DVC, "repro"]
            self.process = programs.start(command, cwd=repository, start_new_session=True, **streams)

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def kill_at(self, kill: Kill, expected: Undisturbed) -> list[psutil.Process] | None:
        """Kill DVC, its stage, or the whole group, at the moment of `kill`.

        Returns:
            The processes that DVC had started; None if the run ends before that moment.
        """
        duration, stages = expected.durations[kill.stage], list(expected.durations)
        starts = [f"Running stage '{name}'" for name in stages[stages.index(kill.stage) :]]
        if kill.moment != "start":
            self._wait(lambda: self._prints(starts), LONG)
        if kill.moment == "write":
            earlier = _parts(self.repository)
            self._wait(lambda: _parts(self.repository) - earlier, 1.2 * duration)
        if kill.moment == "epoch":
            epochs = functools.partial(_checkpoint_epochs, self.repository)
            self._wait(lambda: epochs() > kill.epoch or self._prints(starts[1:]), LONG)
        self._wait(lambda: False, kill.after)
        if self.process.poll() is not None:
            return None
        stage_processes, processes = [], psutil.Process(self.process.pid).children(recursive=True)
        for process in processes:
            with suppress(psutil.Error):
                stage_processes += [process] if "stages." in " ".join(process.cmdline()) else []
        if kill.victim == "dvc":
            self.process.kill()
        elif kill.victim == "stage" and stage_processes:
            with suppress(psutil.NoSuchProcess):
                stage_processes[0].kill()
        else:
            os.killpg(self.process.pid, signal.SIGKILL)
        return processes

    def _prints(self, texts: list[str]) -> bool:
        return any(text in self.output() for text in texts)

    def _wait(self, condition: Callable[[], object], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not condition() and self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)


def _parts(repository: Path) -> set[Path]:
    """Files that are being written, or were when their writer was killed."""
    return {path for folder in _OUTPUT_FOLDERS for path in (repository / folder).glob(".*.part*")}


def _checkpoint_epochs(repository: Path) -> int:
    """How many epochs the checkpoint holds, 0 without one; fails if it is not whole."""
    try:
        with np.load(repository / CHECKPOINT, allow_pickle=False) as checkpoint:
            return sum(name.startswith("history/") for name in checkpoint.files)
    except FileNotFoundError:
        return 0


def _check_after(kill: Kill, repository: Path, expected: Undisturbed) -> None:
    """Check that a kill has left no file under its final name with other bytes than it should have.

    The log of a training does not count: it grows line by line. DVC has no hash of it yet, and removes it
    before the next run.
    """
    _checkpoint_epochs(repository)
    changed = hashes(repository, expected.outputs).items() - expected.files.items()
    half_written = [path for path, _ in changed if not path.startswith(f"{TRAINING}/")]
    assert not half_written, f"{kill}: half is {half_written}"
    wrong = recorded_hashes(repository).items() - expected.outputs.items()
    assert not wrong, f"{kill}: dvc.lock has another hash of {wrong}"


def _check_the_end(repository: Path, expected: Undisturbed) -> None:
    """Check that nothing differs from the undisturbed run, and that no temporary file is left."""
    missing = expected.outputs.items() - recorded_hashes(repository).items()
    assert not missing, f"dvc.lock has other hashes than {missing}"
    assert hashes(repository, expected.outputs) == expected.files, "the files differ from what dvc.lock says"
    for path in (repository / ".dvc/cache/files/md5").glob("*/*"):
        digest = hashlib.md5(path.read_bytes()).hexdigest()
        assert digest == path.parent.name + path.name.removesuffix(".dir"), f"{path} has other bytes"
    # The checkpoint stays until the next training finds that DVC has recorded this one.
    parts = [path for folder in _OUTPUT_FOLDERS for path in (repository / folder).rglob("*.part*")]
    assert not parts, f"left over are {parts}"
