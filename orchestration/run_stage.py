"""Run one stage as `dvc repro --single-item` does, and keep its metrics and plots.

The exit status is 0 if the stage ran; 99, which schedulers show as skipped, if nothing has changed; 75 if the
stage failed for a reason that may be temporary, such as the network or a kill; and 1 if you have to correct
something first. Waits while another DVC command holds the repository.
"""

from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.ui import ui

from malaria import files
from malaria.command import TEMPORARY, new_parser, run_and_exit
from malaria.errors import UserError
from malaria.params import load_params
from orchestration import figures, stage_graph

SKIPPED = 99


def main() -> int:
    parser = new_parser("orchestration.run_stage", __doc__)
    parser.add_argument("stage", help="its name in dvc.yaml")
    parser.add_argument("--force", action="store_true", help="run it even if nothing has changed")
    parser.add_argument("--figures", type=Path, metavar="FILE", help="write its metrics and plots as a page")
    arguments = parser.parse_args()
    # Check params.yaml before DVC does: its errors end with status 1, since a retry would not help.
    load_params()
    ui.enable()
    with stage_graph.open_repo(lock=True) as repo:
        stages = [stage["name"] for stage in stage_graph.read(repo)]
        if arguments.stage not in stages:
            raise UserError(f"dvc.yaml has no stage {arguments.stage}: its stages are {', '.join(stages)}.")
        status = run(repo, arguments.stage, arguments.force)
        if arguments.figures and status in (0, SKIPPED):
            files.write_text(arguments.figures, figures.page(repo, arguments.stage))
    return status


def run(repo: Repo, stage: str, force: bool) -> int:
    """Run the stage; return 0, SKIPPED, or the status of a failure."""
    if not force and not repo.status(targets=[stage]):
        print(f"Nothing that {stage} depends on has changed: it is not run.")
        return SKIPPED
    try:
        repo.reproduce(stage, single_item=True, force=force)
    except DvcException as error:
        message = f"{error}: {error.__cause__}" if error.__cause__ else str(error)
        print(f"error: {message}", flush=True)
        # With status 1, the stage has said in a sentence what the user has to do.
        return 1 if message.endswith(" exited with 1") else TEMPORARY
    return 0


if __name__ == "__main__":
    run_and_exit(main)
