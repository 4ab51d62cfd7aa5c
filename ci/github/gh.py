"""Calls of `gh`, GitHub's command-line program, for the modules beside this one."""

import json
import subprocess
from typing import Any

from malaria import programs


def gh(*arguments: str, stdin: str = "") -> str:
    """Run `gh`, and return what it prints; UserError if it is missing or fails."""
    return programs.run(["gh", *arguments], stdin=stdin)


def ask(path: str) -> Any:
    """GitHub's answer to a GET of its API."""
    return json.loads(gh("api", path))


def send(path: str, content: Any, method: str = "POST") -> None:
    """Send a request with `content` as its JSON body."""
    gh("api", "--method", method, path, "--input", "-", stdin=json.dumps(content))


def ask_bytes(path: str) -> bytes:
    """GitHub's answer to a GET that is no JSON, such as a zip; empty if there is none."""
    with programs.start(["gh", "api", path], stdout=subprocess.PIPE) as process:
        return process.communicate()[0]
