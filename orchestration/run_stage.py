"""Run one stage as `dvc repro --single-item` does, and keep its metrics and plots.

Ends with status 99 where nothing has changed and nothing was run, as schedulers mark a task skipped; the
status is DVC's where the stage fails. Waits while another DVC command holds the repository.
"""

import argparse
from pathlib import Path

import dvc.cli
from dvc.repo import Repo

from malaria import files
from malaria.command import end_with
from malaria.errors import UserError
from orchestration import figures, stage_graph

SKIPPED = 99


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m orchestration.run_stage", description=__doc__)
    parser.add_argument("stage", help="as dvc.yaml names it")
    parser.add_argument("--force", action="store_true", help="run it even where nothing has changed")
    parser.add_argument(
        "--figures", type=Path, metavar="FILE", help="where its metrics and plots go, as a page"
    )
    arguments = parser.parse_args()
    stages = {stage.name: stage for stage in stage_graph.read()}
    if arguments.stage not in stages:
        raise UserError(f"dvc.yaml has no stage {arguments.stage}: its stages are {', '.join(stages)}.")
    status = run(arguments.stage, arguments.force)
    if arguments.figures and status in (0, SKIPPED):
        with Repo() as repo:
            files.write_text(arguments.figures, figures.page(repo, stages[arguments.stage]))
    return status


def run(stage: str, force: bool) -> int:
    """DVC's exit status, or SKIPPED."""
    with Repo(_wait_for_lock=True) as repo:
        if not force and not repo.status(targets=[stage]):
            print(f"Nothing that {stage} depends on has changed: it is not run.")
            return SKIPPED
    command = ["--wait-for-lock", "repro", "--single-item", *(["--force"] if force else []), stage]
    print(f"dvc {' '.join(command)}", flush=True)
    status: int = dvc.cli.main(command)
    return status


if __name__ == "__main__":
    end_with(main)
