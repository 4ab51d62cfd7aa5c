"""What GitHub says of the run: the event that started it, and where output goes; none of it is needed."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from malaria.errors import UserError


@dataclass(frozen=True)
class Pull:
    """The pull request that a run is for. `fork`: it comes from another repository, with a token that
    may only read; `head` is the commit at the tip of its branch `branch`, `base` that of the base branch.
    """

    base: str
    head: str
    branch: str
    fork: bool
    labels: tuple[str, ...]


def read() -> dict[str, Any]:
    """The event, as the file GITHUB_EVENT_PATH has it; empty outside of GitHub's runners."""
    path = os.environ.get("GITHUB_EVENT_PATH")
    if not path:
        return {}
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"GITHUB_EVENT_PATH is {path}, but there is no event in it.") from None
    return content if isinstance(content, dict) else {}


def pull() -> Pull | None:
    """The pull request of the event, if it is of one."""
    found = read().get("pull_request")
    if found is None:
        return None
    head, base = found["head"], found["base"]
    return Pull(
        base=base["sha"],
        head=head["sha"],
        branch=head["ref"],
        # The head repository is null once it is deleted.
        fork=(head.get("repo") or {}).get("full_name") != base["repo"]["full_name"],
        labels=tuple(label["name"] for label in found.get("labels", ())),
    )


def repository() -> str:
    """`owner/name` of the repository whose workflow runs."""
    found = os.environ.get("GITHUB_REPOSITORY")
    if not found:
        raise UserError("GITHUB_REPOSITORY is not set: this command is for GitHub's runners.")
    return found


def summarise(markdown: str) -> None:
    """Show Markdown on the run's own page, where there is one."""
    _append("GITHUB_STEP_SUMMARY", markdown)


def output(name: str, value: str) -> None:
    """Hand a value of one line to later steps and jobs, where there are any."""
    _append("GITHUB_OUTPUT", f"{name}={value}")


def warn(text: str) -> None:
    """A line of the log; on GitHub also a mark on the run."""
    print(f"::warning::{text}" if os.environ.get("GITHUB_ACTIONS") else text)


def _append(variable: str, text: str) -> None:
    if path := os.environ.get(variable):
        with Path(path).open("a", encoding="utf-8") as stream:
            stream.write(text + "\n")
