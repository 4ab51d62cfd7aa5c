"""The stages of dvc.yaml as an Airflow DAG.

The graph comes from `python -m orchestration.stage_graph`, run in the project's own environment, so that a
new stage of dvc.yaml becomes a new task. docs/airflow.md says how to set it up.
"""

import hashlib
import json
import os
import pkgutil
import re
import shlex
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.configuration import AIRFLOW_HOME
from airflow.exceptions import AirflowException
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Param, TriggerRule
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from stage_figures_page import FIGURES, FiguresLink

PROJECT = Path(os.environ.get("MALARIA_PROJECT", Path(__file__).resolve().parents[3]))
ENVIRONMENT = Path(os.environ.get("MALARIA_ENVIRONMENT", PROJECT / ".venv"))
# A cron expression, @daily and the like; empty: runs start only by hand.
SCHEDULE = os.environ.get("MALARIA_SCHEDULE") or None
# Airflow does not catch up runs due before this time: the start of `make airflow`, or this file's date.
FILE_DATE = datetime.fromtimestamp(Path(__file__).stat().st_mtime, UTC)
START = os.environ.get("MALARIA_START") or FILE_DATE.isoformat()
TIMEOUT_HOURS = float(os.environ.get("MALARIA_TIMEOUT_HOURS", "12"))
# Your `module.function` in Airflow's environment: called with its context when a run has failed.
ON_FAILURE = os.environ.get("MALARIA_ON_FAILURE", "")
RETRIES = int(os.environ.get("MALARIA_RETRIES", "2"))
RETRY_SECONDS = int(os.environ.get("MALARIA_RETRY_SECONDS", "30"))

# Set in the command, not in the task's environment: bash reads ~/.bashrc first if its input is a socket, and
# many users put another Python first in PATH there.
# With MALARIA_END_WITH_PARENT no process outlives its task, however the task ended.
SETUP = f'set -eu\nexport PATH={shlex.quote(f"{ENVIRONMENT}/bin")}:"$PATH" MALARIA_END_WITH_PARENT=1\n'

# Exit status of a failure that may be temporary (malaria.errors.UnavailableError).
TEMPORARY = 75

# `run_stage` is `dvc repro --single-item`, but ends with status 99, Airflow's for "skipped", if nothing has
# changed. Airflow fills in the expressions in braces.
RUN_STAGE = f"exec python -m orchestration.run_stage --figures {shlex.quote(str(FIGURES))}/"
ARGUMENTS = "{{ ti.id }}.html{{ ' --force' if params.force else '' }} "

# Compares the new model with that of the last commit.
GATE = """\
if ! git rev-parse --quiet --verify HEAD; then
    echo "There is no commit here, so no model to compare with: the gate judges nothing."
    exit 99
fi
exec python -m ci.gate --base HEAD
"""

PUSH = """\
if [ -z "$(dvc config core.remote || true)" ] \\
    || [ "$(dvc --wait-for-lock status --cloud --json)" = "{}" ]; then
    echo "DVC has no default remote (dvc remote add -d NAME URL), or it has everything: nothing is pushed."
    exit 99
fi
exec python -m remote.push
"""


class Command(BashOperator):  # type: ignore[misc] # Airflow is not in the environment mypy sees
    """A command that is retried only if that may help: it was killed, or its failure may be temporary."""

    def execute(self, context: Any) -> Any:
        try:
            return super().execute(context)
        except AirflowSkipException:
            raise
        except AirflowException as error:
            process = self.subprocess_hook.sub_process
            if process is None or process.returncode == TEMPORARY or not 0 < process.returncode < 128:
                raise
            raise AirflowFailException(f"{error} Another try would fail the same way: see above.") from None


class DvcStage(Command):
    """A stage of dvc.yaml: run if something has changed, skipped otherwise."""

    operator_extra_links = (FiguresLink(),)


def stage_graph() -> list[dict[str, Any]]:
    """The stages as DVC sees them, cached until a file that defines them changes.

    The cache is needed because Airflow reads this DAG every half minute, and DVC takes seconds to answer.
    """
    sources = [PROJECT / name for name in ("dvc.yaml", "params.yaml", "orchestration/stage_graph.py")]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in sources)).hexdigest()
    cache = Path(AIRFLOW_HOME, "stage-graph", f"{digest}.json")
    if not cache.is_file():
        result = subprocess.run(
            [ENVIRONMENT / "bin/python", "-m", "orchestration.stage_graph"],
            cwd=PROJECT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if result.returncode:
            raise AirflowException(f"{PROJECT}: {result.stderr.strip()}")
        cache.parent.mkdir(parents=True, exist_ok=True)
        part = cache.with_suffix(f".{os.getpid()}")
        part.write_text(result.stdout, encoding="utf-8")
        part.replace(cache)
    stages: list[dict[str, Any]] = json.loads(cache.read_text(encoding="utf-8"))
    return stages


def description(stage: dict[str, Any]) -> str:
    """Describe a stage for its task's page, as Markdown."""
    outs = "\n".join(f"- `{out}`{' (metrics)' if out in stage['metrics'] else ''}" for out in stage["outs"])
    return f"{stage['desc']}.\n\n`{stage['cmd']}`\n\nIt writes\n\n{outs}"


with DAG(
    dag_id="malaria_cells",
    description="The DVC pipeline: cells to an evaluated, exported model",
    doc_md=__doc__,
    schedule=SCHEDULE,
    start_date=datetime.fromisoformat(START),
    catchup=False,
    # All runs share one working tree.
    max_active_runs=1,
    is_paused_upon_creation=False,
    on_failure_callback=pkgutil.resolve_name(ON_FAILURE) if "." in ON_FAILURE else None,
    params={
        "force": Param(False, type="boolean", description="Run every stage, even if nothing has changed"),
    },
    default_args={
        "cwd": str(PROJECT),
        # A task runs after skipped stages, but not after a failed one.
        "trigger_rule": TriggerRule.NONE_FAILED,
        "execution_timeout": timedelta(hours=TIMEOUT_HOURS),
        "retries": RETRIES,
        "retry_delay": timedelta(seconds=RETRY_SECONDS),
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": timedelta(minutes=10),
    },
) as dag:
    stages = stage_graph()
    tasks = {
        stage["name"]: DvcStage(
            # DVC allows characters in names that Airflow does not: a foreach stage is called train@a.
            task_id=re.sub(r"[^\w.-]", ".", stage["name"]),
            bash_command=SETUP + RUN_STAGE + ARGUMENTS + stage["name"],
            doc_md=description(stage),
        )
        for stage in stages
    }
    for stage in stages:
        tasks[stage["name"]].set_upstream([tasks[name] for name in stage["after"]])
    gate = Command(task_id="gate", bash_command=SETUP + GATE, retries=0, doc_md="Is the model good enough?")
    push = Command(task_id="push", bash_command=SETUP + PUSH, doc_md="Push what DVC's default remote lacks.")
    gate.set_upstream([task for task in tasks.values() if not task.downstream_list])
    gate >> push
