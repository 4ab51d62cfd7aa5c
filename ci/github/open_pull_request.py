"""Open a pull request with a retrained dvc.lock and its figures, or bring the open one up to date.

Reads the artifacts of the run that retrained. Stops with an error if the gate failed.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from ci import outputs
from ci.github import commit_lock, event, summary
from ci.github.gh import gh
from malaria import programs
from malaria.command import new_parser, run_and_exit
from malaria.errors import UserError

BRANCH = "weekly-retrain"
TITLE = "The cells have changed: retrained"


def main() -> None:
    parser = new_parser("ci.github.open_pull_request", __doc__)
    parser.add_argument("retrained", type=Path, help="the folder with dvc.lock, figures and verdict.json")
    parser.add_argument("report", type=Path, help="the folder with drift.md and summary.json")
    arguments = parser.parse_args()
    state, description = commit_lock.gate_status(arguments.retrained)
    if state != "success":
        raise UserError(f"{description} No pull request is opened.")
    numbers = summary.read((arguments.report / outputs.SUMMARY.name).read_bytes())
    parts = [(arguments.report / outputs.DRIFT.name).read_text("utf-8"), summary.markdown(numbers)]
    print(propose(BRANCH, TITLE, arguments.retrained, outputs.TRACKED, "\n\n".join(parts)))


def propose(branch: str, title: str, folder: Path, files: Sequence[Path], text: str) -> str:
    """Open a pull request with those of `files` that `folder` has, or bring the open one up to date.

    Returns:
        A sentence that says what was done.
    """
    base = programs.git("rev-parse", "--abbrev-ref", "HEAD")
    if not commit_lock.add_files(folder, files):
        return "Nothing differs from what is here: no pull request is opened."
    # A single push: GitHub would close the pull request if its branch were reset to the base first.
    commit_lock.push(branch, title, "", "--force")
    repository = ("--repo", event.repository())
    branches = ("--head", branch, "--base", base)
    pulls = json.loads(gh("pr", "list", *repository, *branches, "--state", "open", "--json", "number"))
    if pulls:
        number = str(pulls[0]["number"])
        gh("pr", "edit", number, *repository, "--body-file", "-", stdin=text)
        return f"Brought pull request {number} up to date."
    url = gh("pr", "create", *repository, *branches, "--title", title, "--body-file", "-", stdin=text)
    return f"Opened {url.strip()}"


if __name__ == "__main__":
    run_and_exit(main)
