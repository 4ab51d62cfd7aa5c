"""Tasks on Dask workers: every result arrives even if workers are killed, and errors are one sentence."""

import functools
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from malaria.errors import UserError
from malaria.predict import engine
from tests.support import dask_cluster
from tests.support.project import ROOT

# Dask may close the sockets of killed workers late.
pytestmark = [pytest.mark.filterwarnings("ignore::ResourceWarning"), pytest.mark.restarts_processes]


def squared(number: int) -> int:
    return number**2


def dies_once(marker: Path) -> str:
    """Kill the process that runs this, but only the first time."""
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


def environment(_: int) -> dict[str, str]:
    return dict(os.environ)


def has_a_child(number: int) -> int:
    with ProcessPoolExecutor(1) as pool:
        return pool.submit(squared, number).result()


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Any]:
    """`engine.map_unordered` on a local cluster of two workers."""
    before = dict(os.environ)
    with engine.cluster(2) as client:
        yield functools.partial(engine.map_unordered, client)
    assert dict(os.environ) == before


def test_every_item_comes_back_once_from_two_workers(two_workers):
    found = list(two_workers(squared, range(50)))
    assert sorted(found) == [(number, number**2) for number in range(50)]


def test_a_task_whose_worker_is_killed_runs_again(two_workers, tmp_path):
    found = dict(two_workers(dies_once, [tmp_path / "one", tmp_path / "two"]))
    assert set(found.values()) == {"done"}


def test_a_task_that_kills_every_worker_stops_with_a_sentence(two_workers):
    with pytest.raises(UserError, match="worker process was killed 4 times, most likely for lack of memory"):
        list(two_workers(dies, [1]))


def test_a_users_error_in_a_task_stays_one(two_workers):
    with pytest.raises(UserError, match="this is wrong, do that"):
        list(two_workers(refuses, range(9)))


def test_common_values_go_to_every_task(two_workers):
    found = two_workers(pow, [2, 3], 5)
    assert sorted(found) == [(2, 32), (3, 243)]


def test_workers_have_this_processes_threads_and_not_fewer(two_workers):
    ((_, found),) = two_workers(environment, [1])
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
        assert found.get(name) == os.environ.get(name)


def test_a_task_may_start_processes(two_workers):
    assert list(two_workers(has_a_child, [3])) == [(3, 9)]


def test_no_scheduler_and_no_library_are_told_in_a_sentence(monkeypatch):
    monkeypatch.setattr(engine, "_CONNECT_SECONDS", 0.2)
    with (
        pytest.raises(UserError, match=r"tcp://127.0.0.1:1 does not answer .*: start a Dask scheduler"),
        engine.cluster(1, "tcp://127.0.0.1:1"),
    ):
        pass
    monkeypatch.setitem(sys.modules, "distributed", None)
    missing = r"`dask` needs distributed: pip install 'malaria-cells\[engine\]'"
    with pytest.raises(UserError, match=missing), engine.cluster(1):
        pass


def test_a_cluster_may_have_certificates_of_its_own_in_dasks_configuration(tmp_path):
    import dask.config
    from distributed import Security

    made = Security.temporary()
    tls = {"ca-file": "ca", "key": "key", "cert": "ca"}
    (tmp_path / "ca").write_text(made.tls_ca_file)
    (tmp_path / "key").write_text(made.tls_client_key)
    settings = {
        f"distributed.comm.tls.{where}{name}": str(tmp_path / file)
        for name, file in tls.items()
        for where in ([""] if name == "ca-file" else ["client.", "scheduler.", "worker."])
    }
    environment = {
        f"DASK_{key.replace('.', '__').replace('-', '_').upper()}": value for key, value in settings.items()
    }
    with dask_cluster.started(tmp_path, protocol="tls", environment=environment) as address:
        assert address.startswith("tls://")
        with dask.config.set(settings), engine.cluster(1, address) as client:
            assert list(engine.map_unordered(client, squared, [3])) == [(3, 9)]


def judged_while_the_scheduler_is_killed(address: str, begun: bool) -> None:
    with engine.cluster(1, address) as client:
        scheduler = client.run_on_scheduler(os.getpid)
        done = engine.map_unordered(client, squared, range(999))
        if begun:
            next(done)
        os.kill(scheduler, signal.SIGKILL)
        list(done)


@pytest.mark.parametrize("begun", [False, True])
def test_a_killed_scheduler_is_told_in_a_sentence_and_nothing_else(tmp_path, caplog, monkeypatch, begun):
    import dask.config
    import distributed  # noqa: F401 (sets its loggers up)

    monkeypatch.setattr(logging.getLogger("distributed.client"), "handlers", [caplog.handler])
    gone = r"^The cluster is gone \(.+\): start it and run again\.$"
    with dask_cluster.started(tmp_path) as address:
        # A short timeout for the client's attempts to reconnect.
        monkeypatch.setitem(dask.config.config["distributed"]["comm"]["timeouts"], "connect", "500ms")
        with pytest.raises(UserError, match=gone):
            judged_while_the_scheduler_is_killed(address, begun)
    assert [record for record in caplog.records if record.name == "distributed.client"] == []


def test_one_process_may_start_workers_again_and_says_nothing_of_its_own():
    code = """
from malaria.predict import engine

if __name__ == "__main__":
    for _ in range(2):
        with engine.cluster(1) as client:
            print(list(engine.map_unordered(client, abs, [-1])))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[(-1, 1)]\n[(-1, 1)]\n", "")


def test_a_cluster_without_this_project_is_told_in_a_sentence(tmp_path):
    with (
        dask_cluster.started(tmp_path, environment={"PYTHONPATH": ""}) as address,
        pytest.raises(UserError, match="The cluster lacks this project"),
        engine.cluster(1, address) as client,
    ):
        list(engine.map_unordered(client, squared, [1]))
