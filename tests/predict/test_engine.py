"""Tasks spread over workers: all come back, whoever is killed, and nothing of Dask is needed without it."""

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from experiments.parallel import spread
from malaria.errors import UserError
from malaria.params import load_params
from malaria.predict import engine

ROOT = Path(__file__).parents[2]

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


def dies(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuses(_: int) -> None:
    raise UserError("params.yaml: this is wrong, do that.")


def cores(_: int) -> tuple[str, frozenset[int]]:
    return os.environ["TF_NUM_INTRAOP_THREADS"], frozenset(os.sched_getaffinity(0))


def has_a_child(number: int) -> int:
    with ProcessPoolExecutor(1) as pool:
        return pool.submit(squared, number).result()


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


@pytest.fixture(scope="module")
def two_workers():
    with engine.cluster(2) as cluster:
        yield cluster


def test_without_an_engine_items_are_done_here_one_by_one():
    assert list(spread(squared, [3, 1, 2])) == [(3, 9), (1, 1), (2, 4)]


def test_every_item_comes_back_once_from_two_workers(two_workers):
    found = list(two_workers.as_they_come(squared, range(50)))
    assert sorted(found) == [(number, number**2) for number in range(50)]


def test_a_task_whose_worker_is_killed_runs_again(two_workers, tmp_path):
    found = dict(two_workers.as_they_come(dies_once, [tmp_path / "one", tmp_path / "two"]))
    assert set(found.values()) == {"done"}


def test_a_task_that_kills_every_worker_stops_with_a_sentence(two_workers):
    with pytest.raises(UserError, match="worker process was killed 4 times, most likely for lack of memory"):
        list(two_workers.as_they_come(dies, [1]))


def test_a_users_error_in_a_task_stays_one(two_workers):
    with pytest.raises(UserError, match="this is wrong, do that"):
        list(two_workers.as_they_come(refuses, range(9)))


def test_common_values_go_to_every_task(two_workers):
    found = two_workers.as_they_come(pow, [2, 3], 5)
    assert sorted(found) == [(2, 32), (3, 243)]


def test_each_worker_has_cores_of_its_own_and_all_of_tensorflows_threads(two_workers):
    mine = os.sched_getaffinity(0)
    found = {result for _, result in two_workers.as_they_come(cores, range(4))}
    assert {threads for threads, _ in found} == {str(len(mine))}
    assert {given for _, given in found} <= set(map(frozenset, engine.shares(sorted(mine), 2)))


@pytest.mark.parametrize(
    ("cores", "workers", "expected"),
    [
        ([0, 1], 2, ((0,), (1,))),
        ([0, 1, 2, 5, 7], 2, ((0, 2, 7), (1, 5))),
        ([4, 6], 3, ((4,), (6,), (4,))),
        ([0, 1], 1, ((0, 1),)),
    ],
)
def test_cores_are_shared_out(cores, workers, expected):
    assert engine.shares(cores, workers) == expected


def test_a_task_may_start_processes(two_workers):
    assert list(two_workers.as_they_come(has_a_child, [3])) == [(3, 9)]


def test_no_workers_no_scheduler_no_library_are_each_told_in_a_sentence(monkeypatch):
    with pytest.raises(UserError, match="--workers is 0, but must be at least 1"), engine.cluster(0):
        pass
    monkeypatch.setattr(engine, "_CONNECT_SECONDS", 0.2)
    with (
        pytest.raises(UserError, match=r"tcp://127.0.0.1:1 does not answer .*: start a Dask scheduler"),
        engine.cluster(1, "tcp://127.0.0.1:1"),
    ):
        pass
    monkeypatch.setitem(sys.modules, "distributed", None)
    missing = r"`dask` needs distributed: pip install '.\[engine\]'"
    with pytest.raises(UserError, match=missing), engine.cluster(1):
        pass


def test_one_process_may_start_workers_again_and_says_nothing_of_its_own():
    code = """
import sys
from malaria import engine

if __name__ == "__main__":
    for _ in range(2):
        with engine.cluster(1) as cluster:
            print(sorted(cluster.as_they_come(abs, [-1])))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[(-1, 1)]\n[(-1, 1)]\n", "")


def test_a_cluster_without_this_project_is_told_in_a_sentence(tmp_path):
    script = tmp_path / "cluster.py"
    script.write_text(
        "from distributed import LocalCluster\n"
        "if __name__ == '__main__':\n"
        "    with LocalCluster(n_workers=1, dashboard_address='127.0.0.1:0') as cluster:\n"
        "        print(cluster.scheduler_address, flush=True)\n"
        "        input()\n"
    )
    command = [sys.executable, str(script)]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as elsewhere:
        with (
            pytest.raises(UserError, match="The cluster lacks this project"),
            engine.cluster(1, elsewhere.stdout.readline().strip()) as cluster,
        ):
            list(cluster.as_they_come(squared, [1]))
        elsewhere.communicate("\n")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux gives cores to processes")
@pytest.mark.filterwarnings("ignore")  # TensorFlow's and Keras's own
def test_spread_trains_to_the_same_bytes_as_this_process():
    found = dict(spread(trained, [1, 2], "dask", 2))
    assert found[1] == trained(1) != found[2]


def test_spread_starts_a_killed_process_again(tmp_path):
    assert list(spread(dies_once, [tmp_path / "one"], "dask", 1)) == [(tmp_path / "one", "done")]


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
