"""A copy of this repository for tests that run the real git and dvc in it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]

SMALL = {
    "data.sample.patients": 12,
    "data.sample.cells": 240,
    "split.tolerance": 0.2,
    "train.epochs": 2,
    "train.patience": 2,
    "evaluate.resamples": 100,
    # A network trained on so few cells is not well calibrated.
    "gate.max_ece": 1.0,
}


def run(
    *command: str, cwd: Path, ok: bool = True, environment: Mapping[str, str] = os.environ
) -> subprocess.CompletedProcess[str]:
    """Run a command with this Python's `dvc` and `python`; it must succeed unless `ok` is False."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env={**environment, "PATH": path}, check=False
    )
    assert done.returncode == 0 or not ok, done.stdout + done.stderr
    return done


def git(*arguments: str, cwd: Path) -> str:
    """Run git with a name and address for its commits; return what it prints."""
    return run(
        "git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments, cwd=cwd
    ).stdout.strip()


def commit(repository: Path, message: str) -> str:
    """Commit all changes; return the commit's hash."""
    git("add", "-A", cwd=repository)
    git("commit", "-qm", message, cwd=repository)
    return git("rev-parse", "HEAD", cwd=repository)


def start(repository: Path, values: dict[str, object]) -> None:
    """Make a git repository of the working tree's files but dvc.lock, with `values` as other parameters."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).stdout
    for name in listed.splitlines():
        if (ROOT / name).is_file() and name != "dvc.lock":
            (repository / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, repository / name)
    change(repository, values)
    run("git", "init", "-q", ".", cwd=repository)
    commit(repository, "all")


def change(repository: Path, values: dict[str, object]) -> None:
    """Set parameters of params.yaml, by their dotted names."""
    file = repository / "params.yaml"
    content = yaml.safe_load(file.read_text())
    for key, value in values.items():
        *sections, name = key.split(".")
        section = content
        for part in sections:
            section = section[part]
        section[name] = value
    file.write_text(yaml.safe_dump(content, sort_keys=False))


# Files below these are never written in place: a hard link is as good as a copy, and quicker.
_WRITTEN_ONCE = (".git/objects", ".dvc/cache", "data/raw")


def copy(repository: Path, target: Path) -> Path:
    """A copy of a finished repository, with its results, that a test may change."""

    def place(source: str, to: str) -> None:
        if Path(source).relative_to(repository).as_posix().startswith(_WRITTEN_ONCE):
            Path(to).hardlink_to(source)
        else:
            shutil.copy2(source, to)

    shutil.copytree(repository, target, copy_function=place, symlinks=True)
    return target
