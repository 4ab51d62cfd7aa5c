"""Commit a retrained dvc.lock and its figures to the branch that was retrained.

The commit goes on top of the retrained commit, without force, so that no push in the meantime is lost. The
trailer `Stages` of its message says how the stages ran, for the report of a later run. The new commit gets
the gate's outcome as the status `gate`, because workflow runs on a commit of GITHUB_TOKEN wait for approval.
If the branch already has this dvc.lock, the status goes on the judged commit, where an earlier run may have
set another. Runs in a checkout of the judged commit.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from ci import outputs
from ci.github import event, summary
from ci.github.gh import send
from malaria import programs
from malaria.command import new_parser, run_and_exit
from malaria.errors import UserError

MESSAGE = "Retrained: dvc.lock and figures"
TRAILER = "Stages"

# Commits are made by GitHub's account for workflows; `gh` has the token.
_AS_GITHUB = (
    *("-c", "user.name=github-actions[bot]", "-c", "credential.helper=!gh auth git-credential"),
    *("-c", "user.email=41898282+github-actions[bot]@users.noreply.github.com"),
)


def main() -> None:
    parser = new_parser("ci.github.commit_lock", __doc__)
    parser.add_argument("folder", type=Path, help="folder of the artifact, files under their own paths")
    folder = parser.parse_args().folder
    pull = event.pull()
    if pull is None or pull.fork:
        raise UserError("This is no run of a pull request of this repository: nothing can be handed back.")
    if add_files(folder, outputs.TRACKED):
        commit = push(pull.branch, MESSAGE, _trailer(folder / outputs.RUN.name))
        print(f"{pull.branch} is at {commit} now: pull it, then `make take-over RUN=...` or `dvc pull`.")
    else:
        commit = pull.head
        print(f"{pull.branch} has this {outputs.LOCK} already: nothing is committed.")
    state, description = gate_status(folder)
    status = {"state": state, "context": "gate", "description": description[:140]}
    send(f"repos/{event.repository()}/statuses/{commit}", status)


def add_files(folder: Path, files: Sequence[Path]) -> bool:
    """Copy those of `files` that `folder` has into the checkout, and `git add` them; say whether any differs.

    Raises:
        UserError: `folder` has none of them.
    """
    present = [path for path in files if (folder / path).is_file()]
    if not present:
        raise UserError(f"{folder} holds no {files[0]}: it is no artifact of this run.")
    for path in present:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / path, path)
    programs.git("add", "--", *map(str, present))
    return bool(programs.git("diff", "--cached", "--name-only"))


def push(branch: str, headline: str, body: str = "", *flags: str) -> str:
    """Commit what is added, and push it to a branch; return the new commit.

    Raises:
        UserError: GitHub refuses: the branch has moved on, say, or the token may not write.
    """
    programs.git(*_AS_GITHUB, "commit", "--quiet", "-m", headline, "-m", body)
    try:
        programs.git(*_AS_GITHUB, "push", *flags, "origin", f"HEAD:refs/heads/{branch}")
    except UserError as error:
        raise UserError(f"GitHub refuses the commit to {branch}: {error}") from None
    return programs.git("rev-parse", "HEAD")


def _trailer(file: Path) -> str:
    """The trailer that says how the stages ran; empty if the run left no record."""
    try:
        stages = json.loads(file.read_bytes())["stages"]
        entries = [
            f"{stage['name']} {stage['how']} {stage['seconds'] or 0:.1f}"
            for stage in stages
            if stage["name"] in summary.STAGES and stage["how"] in summary.HOW
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return f"{TRAILER}: {', '.join(entries)}"


def gate_status(folder: Path) -> tuple[str, str]:
    """State and description of the status `gate`, from the gate's verdict in the folder of an artifact."""
    try:
        verdict = json.loads((folder / outputs.VERDICT.name).read_bytes())
    except (FileNotFoundError, ValueError):
        return "error", "The gate did not run to its end: look at the log of the run."
    return "success" if verdict["mergeable"] else "failure", str(verdict["headline"])


if __name__ == "__main__":
    run_and_exit(main)
