"""Experiments spread over an engine's workers: as here, whoever is killed, and nothing is left behind."""

import hashlib
import os
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from experiments.parallel import spread
from malaria.params import load_params
from tests.support import project
from tests.support.project import ROOT

# Dask closes sockets of workers that were killed when it finds the time.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def squared(number: int) -> int:
    return number**2


def dies_once(marker: Path) -> str:
    """Kills its own process, the first time."""
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return "done"
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def is_left_once(pipe: Path) -> str:
    """Starts a long program that holds `pipe`, and kills the worker above it, the first time."""
    try:
        pipe.with_name("marker").touch(exist_ok=False)
    except FileExistsError:
        return "done"
    with (
        pipe.open("wb") as held,
        subprocess.Popen(["sh", "-c", "echo started; exec sleep 600"], stdout=held) as program,
    ):
        os.kill(os.getppid(), signal.SIGKILL)
        program.wait()
    raise AssertionError("unreachable")


def trained(seed: int) -> str:
    """The SHA-256 of a small network's weights after an epoch on noise."""
    from malaria.train import training

    draw = np.random.default_rng(seed)
    images = draw.integers(0, 255, (320, 50, 50, 3), dtype=np.uint8)
    labels = (np.arange(320) % 2).astype(np.float32)
    train, val = (
        training.Cells(images, np.arange(*rows), labels[slice(*rows)]) for rows in ((0, 256), (256, 320))
    )
    settings = load_params(ROOT / "params.yaml").train.model_copy(update={"epochs": 1, "seed": seed})
    with tempfile.TemporaryDirectory() as log:
        weights = training.train(train, val, settings, Path(log)).model.get_weights()
    return hashlib.sha256(b"".join(weight.tobytes() for weight in weights)).hexdigest()


def test_without_an_engine_items_are_done_here_one_by_one():
    assert list(spread(squared, [3, 1, 2])) == [(3, 9), (1, 1), (2, 4)]


@pytest.mark.long
def test_spread_trains_to_the_same_bytes_as_a_process_without_an_engine():
    program = "from tests.experiments.test_parallel import trained; print(trained(1))"
    *_, alone = project.run(sys.executable, "-c", program, cwd=ROOT).stdout.split()
    assert dict(spread(trained, [1], "dask", 1)) == {1: alone}


def test_spread_starts_a_killed_process_again(tmp_path):
    assert list(spread(dies_once, [tmp_path / "one"], "dask", 1)) == [(tmp_path / "one", "done")]


def test_a_killed_worker_takes_along_what_its_task_had_started(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    held = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert list(spread(is_left_once, [tmp_path / "pipe"], "dask", 1)) == [(tmp_path / "pipe", "done")]
        assert os.read(held, 99) == b"started\n"
        # The end of the pipe, once none has it open.
        assert select.select([held], [], [], 60)[0]
        assert os.read(held, 99) == b""
    finally:
        os.close(held)


def test_spread_takes_functions_of_the_script_that_runs(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from experiments.parallel import spread\n"
        "def doubled(n): return 2 * n\n"
        "if __name__ == '__main__': print(sorted(spread(doubled, [1, 2], 'dask', 1)))\n"
    )
    command = [sys.executable, str(script)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("[(1, 2), (2, 4)]\n", "")
