"""The real Airflow, in its own environment, on a small sample: `make airflow-env` installs it."""

import importlib.util
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from uuid import uuid4

import psutil
import pytest
import yaml

from tests.support.project import ROOT, change, commit, copy, run

pytestmark = pytest.mark.long

HERE = ROOT / "orchestration/airflow"

# A user's hook for failed runs, as in docs/airflow.md.
NOTIFY = """
import pathlib, sys
def tell(context):
    pathlib.Path(__file__).with_name("told").write_text(context["dag_run"].run_id)
"""


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="session")
def binaries() -> Path:
    """The folder of Airflow's commands.

    If there is none, tests are skipped, or fail if MALARIA_REQUIRE_AIRFLOW is set.
    """
    folder = ROOT / ".venv-airflow/bin"
    if not (folder / "airflow").exists():
        if os.environ.get("MALARIA_REQUIRE_AIRFLOW"):
            pytest.fail("MALARIA_REQUIRE_AIRFLOW is set, but there is no .venv-airflow")
        pytest.skip("needs Airflow: make airflow-env")
    return folder


@dataclass(frozen=True)
class Airflow:
    """An Airflow installation that is set up for one repository."""

    environment: dict[str, str]
    binaries: Path
    home: Path

    def call(self, *command: str, ok: bool = True, **environment: str) -> str:
        """Run a command of Airflow's environment; return its stdout."""
        # Bash reads ~/.bashrc if its stdin is a socket, as it is in Airflow's workers.
        ours, theirs = socket.socketpair()
        with ours, theirs:
            done = subprocess.run(
                [self.binaries / command[0], *command[1:]], env=self.environment | environment,
                stdin=theirs, capture_output=True, text=True, check=False, cwd=self.home,
            )  # fmt: skip
        assert done.returncode == 0 or not ok, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def run(self) -> dict[str, str]:
        """Run the DAG to its end; return {task: state}."""
        earlier = self.runs()
        # Airflow runs no task before the DAG's start date, so this date is in the past.
        self.call(
            "airflow", "dags", "test", "malaria_cells", ok=False, MALARIA_START="2026-01-05T12:00:00+00:00"
        )
        (latest,) = self.runs() - earlier
        with sqlite3.connect(self.home / "airflow.db") as database:
            rows = database.execute("select task_id, state from task_instance where run_id = ?", [latest])
            return dict(rows.fetchall())

    def runs(self) -> set[str]:
        with sqlite3.connect(self.home / "airflow.db") as database:
            return {run_id for (run_id,) in database.execute("select run_id from dag_run")}


@pytest.fixture(scope="session")
def repository(finished, tmp_path_factory) -> Path:
    """A copy of `finished` with its results committed, then deleted, and a changed parameter of export."""
    folder = copy(finished, tmp_path_factory.mktemp("scheduled") / "repository")
    change(folder, {"gate.rerun": [], "gate.max_ece": 1.0, "gate.min_auc": 0.0, "gate.min_cells": 20})
    commit(folder, "results, and limits that so small a model meets")
    change(folder, {"export.precision": "float16"})
    for name in ("dvc.lock", *(out for stage in stages_of(folder).values() for out in outs(stage))):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


@pytest.fixture(scope="session")
def airflow(binaries, repository, tmp_path_factory) -> Airflow:
    home = tmp_path_factory.mktemp("airflow")
    # A ~/.bashrc that puts another Python first on PATH, as pyenv and conda write it.
    (home / "bin").mkdir()
    (home / "bin/python").symlink_to("/bin/false")
    (home / ".bashrc").write_text(f'export PATH="{home}/bin:$PATH"\n')
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "SHLVL"))},
        **module(HERE / "standalone.py").settings(home),
        "HOME": str(home),
        "MALARIA_PROJECT": str(repository),
        "MALARIA_ENVIRONMENT": str(ROOT / ".venv"),
        "MALARIA_SCHEDULE": "0 3 * * 1",
        "MALARIA_START": "2100-01-05T12:00:00+00:00",
        "MALARIA_TIMEOUT_HOURS": "3",
        "MALARIA_ON_FAILURE": "notify.tell",
        "PYTHONPATH": str(home),
    }
    (home / "notify.py").write_text(NOTIFY)
    started = Airflow(environment, binaries, home)
    started.call("airflow", "db", "migrate")
    return started


def stages_of(folder: Path) -> dict[str, dict]:
    return yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]


def outs(stage: dict) -> Iterator[str]:
    for out in [*stage.get("outs", []), *stage.get("metrics", [])]:
        yield out if isinstance(out, str) else next(iter(out))


def arrows() -> dict[str, set[str]]:
    """For each stage, the stages whose outputs are its dependencies, from the text of dvc.yaml."""
    stages = stages_of(ROOT)
    return {
        name: {
            other
            for other, definition in stages.items()
            for out in outs(definition)
            if any(dep == out or dep.startswith(f"{out}/") for dep in stage["deps"])
        }
        for name, stage in stages.items()
    }


def test_the_stage_graph_has_the_arrows_of_dvc_yaml():
    stages = json.loads(run(sys.executable, "-m", "orchestration.stage_graph", cwd=ROOT).stdout)
    assert {stage["name"]: set(stage["after"]) for stage in stages} == arrows()


def test_each_stage_is_a_task_with_the_same_arrows_and_gate_and_push_come_last(airflow):
    script = """
import json
from airflow.dag_processing.dagbag import DagBag
bag = DagBag()
dag = bag.dags["malaria_cells"]
print("\\n" + json.dumps({
    "errors": bag.import_errors,
    "after": {task.task_id: sorted(task.upstream_task_ids) for task in dag.tasks},
    "schedule": dag.schedule,
    "backoff": sorted({task.retry_exponential_backoff for task in dag.tasks}),
    "hours": sorted({task.execution_timeout.total_seconds() / 3600 for task in dag.tasks}),
    "on_failure": dag.on_failure_callback.__module__,
    "start": dag.start_date.isoformat(),
    "catchup": dag.catchup,
}))
"""
    dag = json.loads(airflow.call("python", "-c", script).splitlines()[-1])
    assert dag["errors"] == {}
    after = {name: set(upstream) for name, upstream in dag["after"].items()}
    assert after == {**arrows(), "gate": {"external"}, "push": {"gate"}}
    assert dag["schedule"] == "0 3 * * 1"
    assert dag["backoff"] == [2.0]
    assert (dag["hours"], dag["on_failure"]) == ([3.0], "notify")
    # Runs that were due before the start are not caught up.
    assert (dag["start"], dag["catchup"]) == ("2100-01-05T12:00:00+00:00", False)


def all_are(state: str) -> dict[str, str]:
    return dict.fromkeys([*stages_of(ROOT), "gate", "push"], state)


@pytest.mark.longest
def test_the_dag_runs_to_its_end_then_skips_all_and_a_failure_stops_what_follows_alone(airflow, repository):
    assert airflow.run() == all_are("success")
    assert run("dvc", "status", "--json", cwd=repository).stdout.strip() == "{}"
    assert run("dvc", "status", "--cloud", "--json", cwd=repository).stdout.strip() == "{}"

    commit(repository, "half the space")
    assert airflow.run() == {**all_are("skipped"), "gate": "success"}

    change(repository, {"split.ratio": [0.98, 0.01, 0.01], "split.tolerance": 0.0, "pack.size": 40})
    unhurt = {"fetch": "skipped", "audit": "skipped", "pack": "success", "laboratories": "success"}
    assert airflow.run() == {**all_are("upstream_failed"), **unhurt, "split": "failed"}


def test_a_task_keeps_its_stages_metrics_and_plots_and_its_page_shows_them_to_those_logged_in(
    airflow, finished
):
    scores = airflow.home / "stage-figures" / f"{uuid4()}.html"
    command = (sys.executable, "-m", "orchestration.run_stage", "evaluate", "--figures", str(scores))
    # Nothing has changed: the stage is skipped (status 99), but its figures are still written.
    assert run(*command, cwd=finished, ok=False).returncode == 99
    script = f"""
import sys
from uuid import UUID
sys.path.insert(0, {str(HERE / "plugins")!r})
from fastapi.testclient import TestClient
import stage_figures_page as page
print("\\n" + str(TestClient(page.site).get("/{scores.stem}").status_code))
print(page.page(UUID("{scores.stem}")).body.decode())
"""
    status, page = airflow.call("python", "-W", "ignore", "-c", script).split("<!doctype html>")
    assert status.split()[-1] == "401"
    assert "<td>auc</td>" in page
    assert page.count("<svg") >= 4
    assert "http" not in page.replace("http://www.w3.org", "")


def test_a_stage_that_dvc_yaml_does_not_have_is_named_with_those_it_has():
    done = run(sys.executable, "-m", "orchestration.run_stage", "tran", cwd=ROOT, ok=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: dvc.yaml has no stage tran: its stages are fetch, audit, ")


def test_a_wrong_parameter_ends_with_status_1_which_is_not_retried(finished, tmp_path):
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(finished / name, tmp_path)
    change(tmp_path, {"train.epochs": -3})
    command = (sys.executable, "-m", "orchestration.run_stage", "train")
    done = run(*command, cwd=tmp_path, ok=False, environment={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 1
    assert done.stderr == "error: params.yaml: train.epochs is -3, but must be an integer from 1 to 1000.\n"


@pytest.mark.parametrize(
    ("ends", "status"), [("sys.exit(1)", 1), ("sys.exit(75)", 75), ("os.kill(os.getpid(), 9)", 75)]
)
def test_an_error_that_may_pass_ends_with_status_75_and_any_other_with_1(finished, tmp_path, ends, status):
    copied = copy(finished, tmp_path / "repository")
    (copied / "stages/audit.py").write_text(f"import os, sys\n{ends}\n")
    command = (sys.executable, "-m", "orchestration.run_stage", "audit")
    assert run(*command, cwd=copied, ok=False).returncode == status


@pytest.mark.parametrize(("status", "raises"), [(1, "AirflowFailException"), (75, "AirflowException")])
def test_a_task_is_tried_again_only_where_that_may_help(airflow, status, raises):
    script = f"""
from airflow.dag_processing.dagbag import DagBag
task = DagBag().dags["malaria_cells"].get_task("gate")
task.bash_command, task.cwd = "exit {status}", None
try:
    task.execute({{}})
except Exception as error:
    print("\\n" + type(error).__name__)
"""
    assert airflow.call("python", "-c", script).split()[-1] == raises


def test_ctrl_c_ends_airflow_and_all_that_it_started(binaries, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = [binaries / "python", HERE / "standalone.py", "--home", tmp_path, "--port", port]
    with subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as terminal:
        assert terminal.stdout is not None
        assert any("Airflow is ready" in line for line in terminal.stdout)
        children = psutil.Process(terminal.pid).children(recursive=True)
        try:
            # On a busy machine the scheduler sometimes hangs: a hanging one must be killed too.
            next(child for child in children if "scheduler" in child.cmdline()).suspend()
            os.killpg(terminal.pid, signal.SIGINT)
            terminal.communicate(timeout=120)
            assert terminal.returncode == 0
            assert [
                child for child in children if psutil.pid_exists(child.pid) and child.status() != "zombie"
            ] == []
        finally:
            for child in children:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            terminal.kill()
