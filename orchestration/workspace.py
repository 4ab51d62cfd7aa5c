"""Lay this version's pipeline into a folder and run a command there, `dvc repro` say.

What a container starts with: code is the image's, data and results are the folder's. Code that lies there is
replaced, so that a newer image brings the newer pipeline; params.yaml and the tables beside the data are
yours once they are there.
"""

import argparse
import contextlib
import fcntl
import os
import shutil
from pathlib import Path

from malaria import files
from malaria.command import end_with
from malaria.errors import UserError

SOURCE = Path(__file__).resolve().parents[1]

CODE = (
    *("ci", "experiments", "malaria", "orchestration", "remote", "stages"),
    *("dvc.yaml", ".dvc/config", ".dvc/plots", ".dvcignore"),
)
# Tables without rows: those of the work tree that an image is built from may name its patients.
TABLES = {"data/doubtful.csv": "given_label,file\n", "data/split.csv": "patient,split\n"}
# Stages depend on them, so that they must be there even where they hold nothing.
FOLDERS = ("data/folder", "data/others", "data/start", "data/external")


def lay(source: Path, folder: Path) -> None:
    """Bring `folder` to the code of `source`, and add what is missing of what is yours.

    Raises:
        UserError: the folder is not there, or cannot be written.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not there: mount the folder for data and results at {folder}.")
    if not os.access(folder, os.W_OK):
        raise UserError(
            f"{folder} cannot be written by user {os.getuid()}: give it to that user, or run as its owner "
            "(DATA_UID and DATA_GID of compose.yaml)."
        )
    for name in CODE:
        if (source / name).exists():
            _copy(source / name, folder / name)
    if not (folder / "params.yaml").exists():
        _copy(source / "params.yaml", folder / "params.yaml")
    for name, header in TABLES.items():
        if not (folder / name).exists():
            files.write_text(folder / name, header)
    for name in FOLDERS:
        (folder / name).mkdir(exist_ok=True)


def hold(folder: Path) -> None:
    """Hold `folder` beside others, for as long as this process lives, and what it becomes.

    DVC's lock file names processes by their numbers, which mean nothing in another container: where no
    other process holds the folder, those that it names have ended, and it goes.
    """
    locks = folder / ".dvc/tmp"
    locks.mkdir(parents=True, exist_ok=True)
    held = os.open(locks / "containers", os.O_RDWR | os.O_CREAT, 0o666)
    os.set_inheritable(held, True)
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (locks / "rwlock").unlink(missing_ok=True)
    fcntl.flock(held, fcntl.LOCK_SH)


def _copy(source: Path, target: Path) -> None:
    if source.is_file():
        with files.atomic_path(target) as part:
            shutil.copyfile(source, part)
        return
    with files.atomic_folder(target) as part:
        # Bytecode of another Python is no part of a stage, and DVC would take it for one.
        shutil.copytree(source, part, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m orchestration.workspace", description=__doc__)
    parser.add_argument("folder", type=Path, help="where data and results are kept")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="run there, in place of this command")
    arguments = parser.parse_args()
    if not arguments.command:
        parser.error("which command is to run there?")
    lay(SOURCE, arguments.folder)
    hold(arguments.folder)
    os.chdir(arguments.folder)
    program = arguments.command[0]
    try:
        os.execvp(program, arguments.command)
    except OSError as error:
        raise UserError(f"{program} cannot be run: {error.strerror}.") from None


if __name__ == "__main__":
    end_with(main)
