"""Run Git, DVC and other programs: without a shell, and with errors in one sentence."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from malaria.errors import UserError

# -P: a module in the current folder must not replace one of DVC's.
DVC = (sys.executable, "-P", "-m", "dvc")

# Git sets these in a hook; PYTHONSAFEPATH hides this project's modules from `python -m`.
_UNSET = (
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_PREFIX"),
    *("GIT_NAMESPACE", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "PYTHONSAFEPATH"),
)


def git(*arguments: str, cwd: Path = Path(), timeout: float | None = None) -> str:
    """What git prints; UserError if it fails, or takes more than `timeout` seconds."""
    return run(["git", *arguments], cwd=cwd, timeout=timeout).strip()


def dvc(*arguments: str, cwd: Path = Path()) -> str:
    """What DVC prints on stdout; UserError if it fails."""
    return run([*DVC, *arguments], cwd=cwd)


def dvc_cache(folder: Path = Path()) -> Path:
    """The cache of the DVC repository in a folder, whether it exists or not; UserError as `_dvc_config`."""
    config = _dvc_config(folder)
    return Path(config["cache"].get("dir") or Path(config.dvc_dir, "cache"))


def use_dvc_cache(cache: Path, folder: Path) -> None:
    """Let the DVC repository in a folder use another cache from now on; UserError as `_dvc_config`."""
    with _dvc_config(folder).edit("local", validate=False) as settings:
        settings["cache"]["dir"] = str(cache.resolve())


def _dvc_config(folder: Path) -> Any:
    """The settings of the DVC repository in a folder; UserError if a file of them cannot be read."""
    # A start of DVC takes half a second, and this a hundredth.
    from dvc.config import Config, ConfigError

    try:
        return Config(dvc_dir=str(folder.resolve() / ".dvc"), validate=False)
    except ConfigError as error:
        reason = str(error).rstrip(".")
        raise UserError(f"{folder.resolve()} has settings of DVC that it cannot read: {reason}.") from None


def run(command: Sequence[str], cwd: Path = Path(), stdin: str = "", timeout: float | None = None) -> str:
    """What a program prints on stdout.

    Raises:
        UserError: it is not installed, fails, or takes more than `timeout` seconds.
    """
    with start(
        command, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            out, err = process.communicate(stdin.encode(), timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise UserError(f"`{_as_typed(command)}` did not end within {timeout:g} s.") from None
    _check(command, process.returncode, _text(err) + _text(out))
    return _text(out)


def lines(command: Sequence[str], cwd: Path = Path()) -> Iterator[str]:
    """Each line that a program prints, on stdout or stderr, as it comes.

    Raises:
        UserError: it is not installed, or fails in the end.
    """
    printed = []
    with start(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            printed.append(_text(line).rstrip())
            yield printed[-1]
    _check(command, process.returncode, "\n".join(printed))


def start(command: Sequence[str], **options: Any) -> "subprocess.Popen[bytes]":
    """Start a program, with `subprocess.Popen`'s options; UserError if it is not installed."""
    try:
        return subprocess.Popen(command, env=environment(), **options)
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not installed: install it and run again.") from None


def environment() -> Mapping[str, str]:
    """The environment variables, with this Python's commands first on the PATH, for DVC's stages.

    Empty variables for credentials are left out, because a secret that is not set may come as an empty text.
    So are git's own variables in a hook, by which git would work on that repository in every folder. Git does
    not ask for passwords. DVC runs stages in the shell that SHELL names, but a login shell may run nothing.
    """
    secrets = ("AWS_", "KAGGLE_")
    variables = {
        name: value
        for name, value in os.environ.items()
        if name not in _UNSET and (value or not name.startswith(secrets))
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**variables, "PATH": path, "SHELL": "/bin/sh", "GIT_TERMINAL_PROMPT": "0"}


def _check(command: Sequence[str], status: int, output: str) -> None:
    """Raise UserError if a program failed, with the line that says why."""
    if status == 0:
        return
    printed = [line for line in output.splitlines() if line.strip()]
    # The error of a stage comes before that of the DVC that ran it. DVC names a damaged file at once.
    errors = [line for line in printed if line.casefold().startswith(("error", "fatal", "'./"))]
    reason = (errors or printed[-1:] or ["it printed nothing"])[0].strip()
    raise UserError(f"`{_as_typed(command)}` failed (status {status}): {reason}")


def _as_typed(command: Sequence[str]) -> str:
    """The start of a command, as a person would type it."""
    words = ["dvc", *command[len(DVC) :]] if tuple(command[: len(DVC)]) == DVC else list(command)
    return " ".join(words[:6])


def _text(output: bytes) -> str:
    return output.decode("utf-8", "replace")
