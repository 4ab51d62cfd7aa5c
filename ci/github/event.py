"""The event that started a workflow run, and where its output goes.

Outside of GitHub there is no event, and no output for GitHub is written.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from malaria.errors import UserError


@dataclass(frozen=True)
class Pull:
    """The pull request that a run is for.

    base, head: the last commits of the base branch and of its own branch, `branch`. fork: it comes from
    another repository, and the run's token may only read.
    """

    base: str
    head: str
    branch: str
    fork: bool
    labels: tuple[str, ...]


def read() -> dict[str, Any]:
    """The event, from the file that GITHUB_EVENT_PATH names; empty outside of GitHub's runners."""
    path = os.environ.get("GITHUB_EVENT_PATH")
    return dict(json.loads(Path(path).read_bytes())) if path else {}


def pull() -> Pull | None:
    """The pull request that the event is about; None for other events."""
    content = read().get("pull_request")
    if content is None:
        return None
    head, base = content["head"], content["base"]
    return Pull(
        base=base["sha"],
        head=head["sha"],
        branch=head["ref"],
        # The head repository is null once it is deleted.
        fork=(head.get("repo") or {}).get("full_name") != base["repo"]["full_name"],
        labels=tuple(label["name"] for label in content.get("labels", ())),
    )


def repository() -> str:
    """`owner/name` of the repository whose workflow runs."""
    name = os.environ.get("GITHUB_REPOSITORY")
    if not name:
        raise UserError("GITHUB_REPOSITORY is not set: this command is for GitHub's runners.")
    return name


def summarise(markdown: str) -> None:
    """Show Markdown on the page of the run, on GitHub only."""
    _append("GITHUB_STEP_SUMMARY", markdown)


def output(name: str, value: str) -> None:
    """Pass a value of one line to later steps and jobs, on GitHub only."""
    _append("GITHUB_OUTPUT", f"{name}={value}")


def warn(text: str) -> None:
    """Print a line; on GitHub it is also a warning on the page of the run."""
    print(f"::warning::{text}" if os.environ.get("GITHUB_ACTIONS") else text)


def _append(variable: str, text: str) -> None:
    if path := os.environ.get(variable):
        with Path(path).open("a", encoding="utf-8") as stream:
            stream.write(text + "\n")
