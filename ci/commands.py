"""Git, DVC and GitHub's `gh`, as the modules of `ci` call them: errors in one sentence, no shell."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from malaria.errors import UserError


def git(*arguments: str, cwd: Path = Path()) -> str:
    """What git says; UserError where it fails."""
    return _run(["git", *arguments], cwd=cwd).strip()


def dvc(*arguments: str, cwd: Path = Path()) -> str:
    """What DVC says on stdout; UserError where it fails."""
    return _run([sys.executable, "-m", "dvc", *arguments], cwd=cwd)


def module(name: str, *arguments: str) -> str:
    """What a command of the project says on stdout; UserError where it fails."""
    return _run([sys.executable, "-m", name, *arguments])


def gh(*arguments: str, stdin: str | None = None) -> str:
    """What GitHub's command line says; UserError where it is missing or fails."""
    return _run(["gh", *arguments], stdin=stdin)


def gh_bytes(*arguments: str, most: int) -> bytes:
    """The first `most` + 1 bytes that `gh` answers: one more than that says that there were more."""
    with _start(["gh", *arguments], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        content: bytes = process.stdout.read(most + 1)
        process.kill()
    return content


def dvc_lines(*arguments: str, cwd: Path = Path()) -> Iterator[str]:
    """Each line that DVC and what it runs say, as it comes; UserError where it fails in the end."""
    command = [sys.executable, "-m", "dvc", *arguments]
    said = ""
    with _start(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            text = line.decode("utf-8", "replace").rstrip()
            said = text.strip() or said
            yield text
    if process.returncode:
        raise UserError(f"`dvc {' '.join(arguments)}` failed (status {process.returncode}): {said}")


def environment() -> Mapping[str, str]:
    """The environment with this Python's commands first, so that DVC's stages run in it.

    A secret that is not set comes as an empty text, which is no credential.
    """
    secrets = ("AWS_", "KAGGLE_")
    kept = {name: value for name, value in os.environ.items() if value or not name.startswith(secrets)}
    return {**kept, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}


def _start(command: list[str], **options: object) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(command, env=environment(), **options)  # type: ignore[call-overload, no-any-return]
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not installed: install it and run again.") from None


def _run(command: list[str], cwd: Path = Path(), stdin: str | None = None) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment(),
            input=stdin,
            stdin=None if stdin is not None else subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not installed: install it and run again.") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "without a word").splitlines()
        name = "dvc" if command[1:3] == ["-m", "dvc"] else command[0]
        shown = " ".join([name, *command[3 if name == "dvc" else 1 :]][:6])
        raise UserError(f"`{shown}` failed (status {done.returncode}): {said[-1]}")
    return done.stdout
