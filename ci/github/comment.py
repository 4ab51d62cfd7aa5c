"""Write the findings of a `retrain` run under its pull request, in one comment that is updated in place.

Runs on the workflow_run event, with a token that may write and the code of the default branch. GitHub says
which pull request the run was for, never the artifact. From the artifact it reads only numbers and known
words (`ci.github.summary`), and writes the comment's text itself.
"""

import io
import json
import re
import zipfile
from typing import Any
from urllib.parse import quote

from ci import outputs
from ci.github import event, summary
from ci.github.gh import first_bytes, get, gh, send
from malaria.command import new_parser, run_and_exit
from malaria.errors import UserError

MARK = "<!-- malaria-cells: report of retrain -->"
ARTIFACT, FILE = "report", "summary.json"
MAX_ZIPPED = 20_000_000

# The files that `retrain` may commit on top of the judged commit.
COMMITTED = set(map(str, outputs.TRACKED))

_CONCLUSIONS = {
    "success": "the check passes",
    "failure": "the check fails",
    "cancelled": "the run was cancelled",
    "timed_out": "the run took too long",
}


# A workflow run, as GitHub's API describes it; `head_sha` is the commit that it judged.
Run = dict[str, Any]


def main() -> None:
    new_parser("ci.github.comment", __doc__).parse_args()
    run = event.read().get("workflow_run")
    if run is None:
        raise UserError("There is no workflow_run in the event: this command is for comment.yml.")
    number = pull_number(run)
    if number is None:
        print(f"No open pull request stands at {run['head_sha']}: the report is stale, and not shown.")
        return
    body = {"body": comment(run, number, report(run))}
    issues = f"repos/{event.repository()}/issues"
    if existing := _existing(number):
        send(f"{issues}/comments/{existing}", body, "PATCH")
    else:
        send(f"{issues}/{number}/comments", body)
    print(f"{'Updated' if existing else 'Wrote'} the comment on pull request {number}.")


def pull_number(run: Run) -> int | None:
    """The number of the open pull request that the run was for; None if there is none, or it has moved on.

    The commit that `retrain` itself adds does not count. The event names no pull request for a fork, so
    GitHub's API is asked.
    """
    if run["event"] != "pull_request" or not run.get("head_repository"):
        return None
    head = quote(f"{run['head_repository']['owner']['login']}:{run['head_branch']}", safe="")
    pulls = get(f"repos/{event.repository()}/pulls?state=open&per_page=100&head={head}")
    numbers = (int(pull["number"]) for pull in pulls if _is_current(run["head_sha"], pull["head"]["sha"]))
    return next(numbers, None)


def _is_current(judged: str, head: str) -> bool:
    """Whether `head` is the judged commit, or its child that changes only files of `COMMITTED`."""
    if head == judged:
        return True
    commit = get(f"repos/{event.repository()}/commits/{head}")
    changed = {file["filename"] for file in commit["files"]}
    return [parent["sha"] for parent in commit["parents"]] == [judged] and changed <= COMMITTED


def report(run: Run) -> str | None:
    """The findings of the run, as Markdown; None if it left no summary that can be read."""
    actions = f"repos/{event.repository()}/actions"
    artifacts = get(f"{actions}/runs/{int(run['id'])}/artifacts?name={ARTIFACT}")["artifacts"]
    if not artifacts or artifacts[0]["size_in_bytes"] > MAX_ZIPPED:
        return None
    zipped = first_bytes(f"{actions}/artifacts/{int(artifacts[0]['id'])}/zip", MAX_ZIPPED)
    if len(zipped) > MAX_ZIPPED:
        return None
    try:
        # Read one member, and no more bytes of it than a summary may have.
        with zipfile.ZipFile(io.BytesIO(zipped)) as archive, archive.open(FILE) as member:
            return summary.markdown(summary.read(member.read(summary.MOST + 1)))
    except Exception:
        # The file of a fork may fail in any way, and each compression method raises its own errors.
        return None


def comment(run: Run, number: int, text: str | None) -> str:
    """The comment's Markdown: what GitHub says about the run, then `text`, the run's own findings."""
    conclusion = _CONCLUSIONS.get(run["conclusion"] or "", "the run did not end as it should")
    head = run["head_sha"][:8] if re.fullmatch("[0-9a-f]{40}", run["head_sha"]) else "an odd commit"
    files = get(f"repos/{event.repository()}/pulls/{number}/files?per_page=100")
    # Asked of GitHub, so that the run cannot hide it. A file that was renamed may have judged before.
    names = [(file["filename"], file.get("previous_filename", file["filename"])) for file in files]
    judging = sum(any(map(outputs.rule, pair)) for pair in names)
    lines = [MARK, f"**Retrained at {head}: {conclusion}.** [The run]({run['html_url']}) has all of it."]
    if judging or len(files) == 100:
        lines.append(
            f"**It changes {judging} of the files that judge it** ({', '.join(outputs.RULES)}, or "
            "new ones beside them): read them first."
        )
    return "\n".join([*lines, "", text or "It left no summary that can be read: its log says why."])


def _existing(number: int) -> int | None:
    """The number of an earlier run's comment, if the account of workflows wrote one; else None."""
    pages = gh(
        "api", "--paginate", f"repos/{event.repository()}/issues/{number}/comments?per_page=100",
        "--jq", ".[] | [.id, .user.login, .body[0:100]] | tojson",
    )  # fmt: skip
    for line in pages.splitlines():
        comment_id, login, body = json.loads(line)
        if login == "github-actions[bot]" and body.startswith(MARK):
            return int(comment_id)
    return None


if __name__ == "__main__":
    run_and_exit(main)
