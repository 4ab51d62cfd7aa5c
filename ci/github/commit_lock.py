"""Hand a retrained dvc.lock and its figures back to the branch they are of, as one commit.

GitHub makes the commit, and only on top of the very commit that was retrained: a push in the meantime is
never lost. Its message has a trailer, `Stages`, with what the run did, so that a later run on it can tell.
The gate's outcome is put on the new commit as the status `gate`, since runs that a commit of GITHUB_TOKEN
starts wait for approval. Where the lock is the branch's already, the status goes on the commit that was
judged: an earlier run may have put another there. Runs in a checkout of that commit.
"""

import argparse
import base64
import json
from collections.abc import Sequence
from pathlib import Path

from ci import outputs
from ci.github import event, summary
from ci.github.gh import send
from ci.outputs import KEPT, LOCK
from malaria.command import end_with
from malaria.errors import UserError

MESSAGE = "Retrained: dvc.lock and figures"
TRAILER = "Stages"

_COMMIT = """mutation ($input: CreateCommitOnBranchInput!) {
  createCommitOnBranch(input: $input) { commit { oid } }
}"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m ci.github.commit_lock", description=__doc__)
    parser.add_argument("folder", type=Path, help="of the artifact: it has the files below their paths")
    folder = parser.parse_args().folder
    pull = event.pull()
    if pull is None or pull.fork:
        raise UserError("This is no run of a pull request of this repository: nothing can be handed back.")
    if _is_here(folder):
        commit = pull.head
        print(f"{pull.branch} has this {LOCK} already: nothing is committed.")
    else:
        commit = commit_files(pull.branch, pull.head, folder, MESSAGE, _stages(folder / outputs.RUN.name))
        print(f"{pull.branch} is at {commit} now: pull it, then `make take-over RUN=...` or `dvc pull`.")
    _status(commit, *_outcome(folder / outputs.VERDICT.name))
    return 0


def _is_here(folder: Path) -> bool:
    """Whether the checkout has those of `KEPT` that lie below `folder` byte for byte; not where none does."""
    kept = [path for path in KEPT if (folder / path).is_file()]
    return bool(kept) and all(
        path.is_file() and path.read_bytes() == (folder / path).read_bytes() for path in kept
    )


def _stages(file: Path) -> str:
    """The trailer that tells what the run did; empty where it left no record."""
    try:
        stages = json.loads(file.read_bytes())["stages"]
        told = [
            f"{stage['name']} {stage['how']} {stage['seconds'] or 0:.1f}"
            for stage in stages
            if stage["name"] in summary.STAGES and stage["how"] in summary.HOW
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return f"{TRAILER}: {', '.join(told)}"


def commit_files(
    branch: str, parent: str, folder: Path, headline: str, body: str = "", files: Sequence[Path] = KEPT
) -> str:
    """Commit those of `files` that lie below `folder` to a branch whose tip is `parent`; the new commit.

    Raises:
        UserError: GitHub refuses: the branch has moved on, say, or the token may not write.
    """
    additions = [
        {"path": path.as_posix(), "contents": base64.b64encode((folder / path).read_bytes()).decode()}
        for path in files
        if (folder / path).is_file()
    ]
    if not additions:
        raise UserError(f"{folder} holds no {files[0]}: it is no artifact of this run.")
    wanted = {
        "branch": {"repositoryNameWithOwner": event.repository(), "branchName": branch},
        "message": {"headline": headline, "body": body},
        "expectedHeadOid": parent,
        "fileChanges": {"additions": additions},
    }
    said = send("graphql", {"query": _COMMIT, "variables": {"input": wanted}})
    if said.get("errors"):
        raise UserError(f"GitHub refuses the commit to {branch}: {said['errors'][0]['message']}")
    return str(said["data"]["createCommitOnBranch"]["commit"]["oid"])


def _outcome(file: Path) -> tuple[str, str]:
    """The state of a status, and its description, as the gate's verdict has it."""
    try:
        verdict = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return "error", "The gate did not run to its end: look at the log of retrain."
    return "success" if verdict["mergeable"] else "failure", str(verdict["headline"])


def _status(commit: str, state: str, description: str) -> None:
    wanted = {"state": state, "context": "gate", "description": description[:140]}
    send(f"repos/{event.repository()}/statuses/{commit}", wanted)


if __name__ == "__main__":
    end_with(main)
