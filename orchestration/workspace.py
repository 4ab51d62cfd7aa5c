"""Copy this version's pipeline into a folder, and run a command there, such as `dvc repro`.

Containers start with this command: the code comes from the image, data and results stay in the folder. It
replaces the code in the folder, so that a newer image brings the newer pipeline. It adds params.yaml and the
tables of data/ only if they are missing, because you edit them.
"""

import argparse
import contextlib
import fcntl
import os
import shutil
from pathlib import Path

from malaria import files
from malaria.command import new_parser, run_and_exit
from malaria.errors import UserError

SOURCE = Path(__file__).resolve().parents[1]

CODE = (
    *("ci", "experiments", "malaria", "orchestration", "remote", "stages"),
    *("dvc.yaml", ".dvc/config", ".dvc/plots", ".dvcignore"),
)
# Added without rows: the image has no tables, because those of a work tree may name its patients.
TABLES = {"data/doubtful.csv": "given_label,file\n", "data/split.csv": "patient,split\n"}
# Stages depend on these folders, so they must exist even if they are empty.
FOLDERS = ("data/folder", "data/others", "data/start", "data/external")


def install(source: Path, folder: Path) -> None:
    """Replace the code in `folder` by that of `source`; add params.yaml, tables and folders if missing.

    Raises:
        UserError: the folder does not exist, or cannot be written.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not there: mount the folder for data and results at {folder}.")
    if not os.access(folder, os.W_OK):
        raise UserError(
            f"{folder} cannot be written by user {os.getuid()}: give it to that user, or run as its owner "
            "(DATA_UID and DATA_GID of compose.yaml)."
        )
    for name in CODE:
        _copy(source / name, folder / name)
    if not (folder / "params.yaml").exists():
        _copy(source / "params.yaml", folder / "params.yaml")
    for name, header in TABLES.items():
        if not (folder / name).exists():
            files.write_text(folder / name, header)
    for name in FOLDERS:
        (folder / name).mkdir(exist_ok=True)


def share(folder: Path) -> None:
    """Share `folder` with other containers: hold a lock until this process ends, also after `exec`.

    DVC's own lock file names processes by their ids, which mean nothing in another container. If no other
    process holds the folder, the processes named there have ended, and this deletes DVC's lock file.
    """
    locks = folder / ".dvc/tmp"
    locks.mkdir(parents=True, exist_ok=True)
    lock = os.open(locks / "containers", os.O_RDWR | os.O_CREAT, 0o666)
    os.set_inheritable(lock, True)
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (locks / "rwlock").unlink(missing_ok=True)
    fcntl.flock(lock, fcntl.LOCK_SH)


def _copy(source: Path, target: Path) -> None:
    if source.is_file():
        with files.atomic_path(target) as part:
            shutil.copyfile(source, part)
        return
    with files.atomic_folder(target) as part:
        # DVC would take another Python's bytecode for part of a stage.
        shutil.copytree(source, part, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))


def main() -> int:
    parser = new_parser("orchestration.workspace", __doc__)
    parser.add_argument("folder", type=Path, help="where data and results are kept")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="the command to run in that folder")
    arguments = parser.parse_args()
    if not arguments.command:
        parser.error("which command is to run there?")
    install(SOURCE, arguments.folder)
    share(arguments.folder)
    os.chdir(arguments.folder)
    program = arguments.command[0]
    try:
        os.execvp(program, arguments.command)
    except OSError as error:
        raise UserError(f"{program} cannot be run: {error.strerror}.") from None


if __name__ == "__main__":
    run_and_exit(main)
