"""How every command of the project starts and ends: `--help`, and errors in one sentence."""

import argparse
import errno
import importlib.util
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from malaria import running
from malaria.errors import UnavailableError, UserError
from malaria.paths import PARAMS, RUNNING

# A quota counts as a disk.
_FULL = (errno.ENOSPC, errno.EDQUOT)

# The exit status of a failure that may pass, and the variable by which commands end with their parents.
TEMPORARY = 75
WITH_PARENT = "MALARIA_END_WITH_PARENT"

_PATIENCE = 60.0  # s for a run of the same stage that was told to end

# Held by the thread that keeps the terminal quiet, which may do so again within.
_TERMINAL = threading.RLock()


def run_stage(main: Callable[..., None], **folders: str) -> None:
    """Run one stage of `dvc.yaml`, alone; its module's docstring is its `--help`.

    Args:
        folders: options that name a folder, with their help. What results may depend on belongs into
            params.yaml; these only say where something is kept. `main` takes each by its name, a Path
            or None.
    """
    module = sys.modules[main.__module__]
    assert module.__spec__ is not None
    given_by = "Reads params.yaml in the current folder; `dvc repro` runs it when needed."
    parser = options(module.__spec__.name, module.__doc__, epilog=given_by)
    for name, meaning in folders.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, metavar="FOLDER", help=meaning)
    given = vars(parser.parse_args())
    running.end_with_dvc()
    stage = module.__spec__.name.rsplit(".", 1)[-1]

    def run() -> None:
        # Elsewhere than in a repository nothing is written, and `main` says so.
        lock = running.locked(RUNNING / f"{stage}.lock", f"still runs {stage} in this repository", _PATIENCE)
        with lock if PARAMS.is_file() else nullcontext():
            main(**given)
        running.check_room_in_cache(stage)

    end_with(run)


def options(module: str, description: str | None, **further: Any) -> argparse.ArgumentParser:
    """The parser of `python -m module`; its `--help` has the description as it is written."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **further,
    )


def end_with(main: Callable[[], int | None]) -> None:
    """Call `main` and exit with its status.

    One line and status 1 are what becomes of a UserError, of a full disk, and of a file or folder that the
    system refuses; status TEMPORARY of what may pass. Under a scheduler, which sets WITH_PARENT, the process
    ends with the one that started it.
    """
    if os.environ.get(WITH_PARENT):
        running.end_with_parent()
    try:
        status = main()
        # A short output has not left the process yet.
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = TEMPORARY if isinstance(error, UnavailableError) else 1
    except BrokenPipeError:
        # The reader of our output (`head`, say) has gone; nothing is left to say to it.
        status = 1
    except OSError as error:
        if error.errno in _FULL:
            where = f" at {error.filename}" if error.filename else ""
            print(f"error: The disk is full{where}: free some space, and run this again.", file=sys.stderr)
        elif error.filename:
            print(f"error: {error.filename}: {error.strerror}.", file=sys.stderr)
        else:
            raise
        status = 1
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        status = 130
    try:
        sys.stdout.flush()
    except OSError:
        # Python would try once more at its end, and say so in words of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def how_many(text: str) -> int:
    """The `type` of an option that counts something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 1 on")
    return int(text)


def share_of_one(text: str) -> float:
    """The `type` of an option that is a share, in [0, 1]."""
    with suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} must be a number from 0 to 1")


def local_path(text: str) -> Path:
    """The `type` of an option that names a file or folder of this machine, and never an object in a store."""
    if "://" in text:
        raise argparse.ArgumentTypeError(f"{text} is no place on this machine: name a file or folder here")
    return Path(text)


def needs(module: str, what: str, extra: str) -> None:
    """Raise UserError where `module`, without which there is no `what`, is not installed."""
    if importlib.util.find_spec(module) is None:
        raise UserError(f"`{what}` needs {module}: pip install 'malaria-cells[{extra}]'.")


@contextmanager
def without_native_logs() -> Iterator[None]:
    """Keep off the terminal what C++ libraries write to stderr.

    Where the block fails, it is shown after all: it may say why. One thread at a time: of two, one would
    take the other's file for the terminal.
    """
    with _TERMINAL, tempfile.TemporaryFile() as said:
        sys.stderr.flush()
        terminal = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            said.seek(0)
            os.write(terminal, said.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
