"""Put the report of a `retrain` run under its pull request, in one comment that is updated in place.

For the workflow_run event, whose token may write: it runs the default branch's code, and takes the run's
artifact for hostile. Which pull request it is for is told by GitHub, never by the artifact.
"""

import argparse
import io
import json
import re
import zipfile
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ci import commands
from ci.github import event
from ci.github.sanitise import MOST, sanitise
from malaria.command import end_with
from malaria.errors import UserError

MARK = "<!-- malaria-cells: report of retrain -->"
ARTIFACT, FILE = "report", "report.md"

# Bytes of the artifact, zipped; and of the report in it, which is cut at MOST characters anyway.
MOST_ZIPPED, MOST_BYTES = 20_000_000, 5 * MOST

_SAYS = {
    "success": "the check passes",
    "failure": "the check fails",
    "cancelled": "the run was cancelled",
    "timed_out": "the run took too long",
}


@dataclass(frozen=True)
class Run:
    """The run that the event is about: whose `head` commit it judged, and where that lies."""

    number: int
    head: str
    owner: str
    branch: str
    conclusion: str
    page: str


def main() -> int:
    argparse.ArgumentParser(prog="python -m ci.github.comment", description=__doc__).parse_args()
    run = _run()
    if run is None:
        print("The run was not for a pull request: nothing to say.")
        return 0
    number = pull_number(run)
    if number is None:
        print(f"No open pull request has its tip at {run.head}: the report is stale, and not shown.")
        return 0
    body = comment(run, report(run))
    known = _known(number)
    repository = event.repository()
    where = f"repos/{repository}/issues/{'comments/' + str(known) if known else f'{number}/comments'}"
    method = "PATCH" if known else "POST"
    commands.gh("api", "--method", method, where, "--input", "-", stdin=json.dumps({"body": body}))
    print(f"{'Updated' if known else 'Wrote'} the comment on pull request {number}.")
    return 0


def _run() -> Run | None:
    found = event.read().get("workflow_run")
    if found is None:
        raise UserError("There is no workflow_run in the event: this command is for comment.yml.")
    if found["event"] != "pull_request" or found.get("head_repository") is None:
        return None
    return Run(
        number=int(found["id"]),
        head=found["head_sha"],
        owner=found["head_repository"]["owner"]["login"],
        branch=found["head_branch"],
        conclusion=found["conclusion"] or "",
        page=found["html_url"],
    )


def pull_number(run: Run) -> int | None:
    """The open pull request whose branch still ends in the commit that was judged.

    The event itself names none for a fork, so GitHub is asked.
    """
    head = quote(f"{run.owner}:{run.branch}", safe="")
    pulls = _ask(f"repos/{event.repository()}/pulls?state=open&per_page=100&head={head}")
    return next((int(pull["number"]) for pull in pulls if pull["head"]["sha"] == run.head), None)


def report(run: Run) -> str | None:
    """The run's report, sanitised; None where it left none that can be read."""
    repository = event.repository()
    found = _ask(f"repos/{repository}/actions/runs/{run.number}/artifacts?name={ARTIFACT}")["artifacts"]
    if not found or found[0]["size_in_bytes"] > MOST_ZIPPED:
        return None
    where = f"repos/{repository}/actions/artifacts/{int(found[0]['id'])}/zip"
    zipped = commands.gh_bytes("api", where, most=MOST_ZIPPED)
    if len(zipped) > MOST_ZIPPED:
        return None
    try:
        # One member is read, and no more of it than is looked at: what it claims to be does not matter.
        with zipfile.ZipFile(io.BytesIO(zipped)) as archive, archive.open(FILE) as member:
            content = member.read(MOST_BYTES)
    except (KeyError, zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, EOFError, ValueError):
        return None
    return sanitise(content)


def comment(run: Run, text: str | None) -> str:
    """The comment's Markdown: what is known of the run from GitHub, then what the run says of itself."""
    says = _SAYS.get(run.conclusion, "the run did not end as it should")
    head = run.head[:8] if re.fullmatch("[0-9a-f]{40}", run.head) else "an odd commit"
    first = f"**Retrained at {head}: {says}.** [The run]({run.page}) has all of it."
    if text is None:
        return f"{MARK}\n{first}\n\nIt left no report that can be read: its log says why."
    return f"{MARK}\n{first}\nBelow is what it reported of itself.\n\n{text}"


def _known(number: int) -> int | None:
    """The comment of an earlier run, if this workflow's own account wrote it."""
    pages = commands.gh(
        "api", "--paginate", f"repos/{event.repository()}/issues/{number}/comments?per_page=100",
        "--jq", ".[] | [.id, .user.login, .body[0:100]] | tojson",
    )  # fmt: skip
    for line in pages.splitlines():
        identity, login, body = json.loads(line)
        if login == "github-actions[bot]" and body.startswith(MARK):
            return int(identity)
    return None


def _ask(path: str) -> Any:
    return json.loads(commands.gh("api", path))


if __name__ == "__main__":
    end_with(main)
