"""malaria.running: a stage ends when DVC ends, its workers end with it, and it never runs twice at once."""

import os
import platform
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from malaria import running
from malaria.errors import UserError

ROOT = Path(__file__).parents[1]
LONG = 300  # s; a longer wait is a failure

# A stand-in for DVC: a process that runs the given command and waits for it.
RUNNER = "import subprocess, sys; subprocess.run(sys.argv[1:])"
STAGE = """
import os, sys
from malaria import running
above = os.getppid()
print(os.getpid(), flush=True)
if "late" in sys.argv:
    # DVC is killed while the stage still starts: wait until the parent has changed.
    while os.getppid() == above:
        pass
running.end_with_dvc()
print("guarded", flush=True)
print(sys.stdin.readline(), flush=True)
"""


def start(*command: str, **environment: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.Popen(
        [sys.executable, "-c", RUNNER, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def ends(process: subprocess.Popen[str]) -> bool:
    """Whether every process that holds this stdout ends within LONG seconds, with no further output."""
    readable, _, _ = select.select([process.stdout], [], [], LONG)
    return bool(readable) and os.read(process.stdout.fileno(), 1) == b""


WAYS = {
    "straight from dvc": ((sys.executable, "-c", STAGE), True),
    "by way of a shell that stays": (("sh", "-c", '"$0" -c "$1"; true', sys.executable, STAGE), True),
    "while it still starts": ((sys.executable, "-c", STAGE, "late"), False),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_stage_ends_when_dvc_alone_is_killed(way):
    command, guarded = WAYS[way]
    with start(*command, DVC_STAGE="train") as dvc:
        assert int(dvc.stdout.readline()) > 0
        assert not guarded or dvc.stdout.readline() == "guarded\n"
        dvc.kill()
        assert ends(dvc)


ORPHAN = """
import subprocess, sys
dead = subprocess.Popen(["true"])
dead.wait()
from malaria import running
running.end_with_parent(dead.pid)
sys.stdin.readline()
"""


def test_a_worker_whose_parent_died_before_it_had_started_ends_too():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", ORPHAN], stdin=subprocess.PIPE, env=environment) as orphan:
        assert orphan.wait(LONG) == -signal.SIGKILL


COMMAND = """
import os, sys
from malaria.command import run_and_exit
def main():
    print("begun", flush=True)
    sys.stdin.readline()
run_and_exit(main)
"""


def test_a_command_ends_with_the_scheduler_s_task_that_started_it():
    with start(sys.executable, "-c", COMMAND, MALARIA_END_WITH_PARENT="1") as task:
        assert task.stdout.readline() == "begun\n"
        task.kill()
        assert ends(task)


def test_a_stage_started_by_hand_may_outlive_its_terminal():
    with start(sys.executable, "-c", STAGE) as terminal:
        assert int(terminal.stdout.readline()) > 0
        assert terminal.stdout.readline() == "guarded\n"
        terminal.kill()
        terminal.wait()
        terminal.stdin.write("still here\n")
        terminal.stdin.flush()
        assert terminal.stdout.readline() == "still here\n"


WORK = """
import os, time
from malaria import processes
from tests.test_running import slow
print(os.getpid(), flush=True)
list(processes.map_in_order(slow, range(1000), "slow", 2))
"""


def slow(_number):
    os.write(1, b"working\n")
    signal.pause()


def test_worker_processes_end_with_the_process_they_work_for(tmp_path):
    # A file, because worker processes import the main module.
    script = tmp_path / "work.py"
    script.write_text("if __name__ == '__main__':" + WORK.replace("\n", "\n    "))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment
    ) as main:
        assert int(main.stdout.readline()) == main.pid
        assert [main.stdout.readline() for _ in range(2)] == ["working\n"] * 2
        main.kill()
        assert ends(main)


DRAW = """
import sys
from pathlib import Path
from malaria import params
from malaria.fetch import sample
if __name__ == "__main__":
    data = params.load_params(Path(sys.argv[1])).data
    many = params.SampleData(patients=40, cells=100_000, seed=1)
    sample.fetch(data.model_copy(update={"sample": many}), Path(sys.argv[2]))
"""


def test_processes_that_draw_the_sample_end_with_the_fetch(tmp_path):
    script, folder = tmp_path / "draw.py", tmp_path / "raw"
    script.write_text(DRAW)
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), str(ROOT / "params.yaml"), str(folder)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as main:
        while main.poll() is None and not any(folder.rglob("*.png")):
            pass
        main.kill()
        assert main.wait() == -signal.SIGKILL
        assert ends(main)


HOLDER = """
import sys
from pathlib import Path
from malaria import running
with running.locked(Path(sys.argv[1], "train.lock"), "runs"):
    print("holding", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of the stage `train` in `tmp_path`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout.readline() == "holding\n"
        yield process
        process.kill()


def test_a_stage_refuses_beside_one_that_still_runs_and_names_it(holder, tmp_path, capsys):
    other = f"Process {holder.pid} on {platform.node()} still runs train here"
    with pytest.raises(UserError, match=f"{other}, and both"):
        running.locked(tmp_path / "train.lock", "still runs train here", patience=0.1).__enter__()
    assert f"{other}: waiting for it" in capsys.readouterr().err


def test_a_stage_goes_on_once_the_one_before_is_killed(holder, tmp_path):
    holder.kill()
    with running.locked(tmp_path / "train.lock", "runs", patience=LONG):
        assert (tmp_path / "train.lock").read_text() == f"{os.getpid()} on {platform.node()}\n"


def test_different_stages_run_side_by_side(holder, tmp_path):
    with running.locked(tmp_path / "evaluate.lock", "runs", patience=0.1):
        assert holder.poll() is None


@pytest.fixture
def _results(tmp_path, monkeypatch):
    """A repository whose stage `draw` has written 2 MB, on a disk with 1 MB left."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "dvc.yaml").write_text("stages: {draw: {cmd: x, outs: [made, figures: {cache: false}]}}")
    (tmp_path / "made").mkdir()
    (tmp_path / "made/cells").write_bytes(os.urandom(2_000_000))
    (tmp_path / "figures").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9_000_000, 8_000_000, 1_000_000)
    )


@pytest.mark.usefixtures("_results")
def test_results_that_dvc_s_cache_has_no_room_for_end_the_stage(monkeypatch):
    monkeypatch.setenv("DVC_STAGE", "draw")
    with pytest.raises(
        UserError, match=r"The disk of DVC's cache is full: .*\.dvc has 1 MB left.* draw take 2:"
    ):
        running.check_room_in_cache("draw")


@pytest.mark.usefixtures("_results")
def test_results_of_a_stage_that_you_run_by_hand_go_into_no_cache(monkeypatch):
    monkeypatch.delenv("DVC_STAGE", raising=False)
    running.check_room_in_cache("draw")
