"""Calls of `gh`, GitHub's command-line program, for the modules beside this one."""

import json
import subprocess
from typing import Any

from malaria import programs


def gh(*arguments: str, stdin: str = "") -> str:
    """Run `gh`, and return what it prints; UserError if it is missing or fails."""
    return programs.run(["gh", *arguments], stdin=stdin)


def get(path: str) -> Any:
    """GitHub's answer to a GET of its API."""
    return json.loads(gh("api", path))


def send(path: str, content: Any, method: str = "POST") -> None:
    """Send a request with `content` as its JSON body."""
    gh("api", "--method", method, path, "--input", "-", stdin=json.dumps(content))


def first_bytes(path: str, limit: int) -> bytes:
    """The first `limit` + 1 bytes of an answer; if there are so many, the answer is longer than `limit`."""
    with programs.start(["gh", "api", path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        content: bytes = process.stdout.read(limit + 1)
        process.kill()
    return content
