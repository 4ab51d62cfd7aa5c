"""A stand-in for the program `gh`: it records its calls, and answers from a list of patterns.

A test cannot reach GitHub; it checks the requests that would be sent.
"""

import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Stand:
    """An installed stand-in: `folder`, to be put first on PATH, has its answers and the calls so far."""

    folder: Path

    def answer(self, pattern: str, reply: Any) -> None:
        """Print `reply` if the arguments, joined by spaces, match `pattern`; the last match counts."""
        answers = json.loads((self.folder / "answers.json").read_text())
        content = reply if isinstance(reply, str) else json.dumps(reply)
        (self.folder / "answers.json").write_text(json.dumps([*answers, [pattern, content]]))

    def answer_bytes(self, pattern: str, reply: bytes) -> None:
        (self.folder / "answer.bin").write_bytes(reply)
        self.answer(pattern, "bytes of answer.bin")

    @property
    def asked(self) -> list[tuple[str, str]]:
        """The arguments, joined by spaces, and the standard input of each call so far."""
        file = self.folder / "asked.jsonl"
        return [tuple(json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []


def install(folder: Path) -> Stand:
    """Put the stand-in into a new `folder`."""
    folder.mkdir(parents=True)
    (folder / "answers.json").write_text("[]")
    script = folder / "gh"
    script.write_text(f"#!{sys.executable}\n{Path(__file__).read_text()}")
    script.chmod(0o755)
    return Stand(folder)


def main() -> int:
    folder = Path(sys.argv[0]).parent
    arguments = " ".join(sys.argv[1:])
    stdin = sys.stdin.read() if "-" in sys.argv else ""
    with (folder / "asked.jsonl").open("a") as asked:
        asked.write(json.dumps([arguments, stdin]) + "\n")
    for pattern, reply in reversed(json.loads((folder / "answers.json").read_text())):
        if re.search(pattern, arguments):
            os.write(
                1, (folder / "answer.bin").read_bytes() if reply == "bytes of answer.bin" else reply.encode()
            )
            return 0
    print(f"gh: Not Found (HTTP 404): {arguments}", file=sys.stderr)
    return 1


if __name__ == "__main__" and Path(sys.argv[0]).name == "gh":
    sys.exit(main())
