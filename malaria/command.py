"""Start and end every command of the project alike: `--help`, exit status, errors in one sentence."""

import argparse
import atexit
import errno
import gc
import importlib.util
import io
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from malaria import running
from malaria.errors import UnavailableError, UserError
from malaria.paths import PARAMS, RUNNING

# An exhausted quota counts as a full disk.
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

# After how many new objects the garbage collector looks at them, and after how many rounds at older ones and
# at all. A stage imports about a million objects that stay: with Python's own thresholds, the collector takes
# a fifth of the time in which TensorFlow starts.
_GC_THRESHOLDS = (20_000, 50, 20)

# The exit status of a temporary failure, and the environment variable that ends commands with their parents.
TEMPORARY = 75
WITH_PARENT = "MALARIA_END_WITH_PARENT"

_PATIENCE = 60.0  # s to wait for another run of the same stage, which may be ending

# Held by the thread that keeps native logs off the terminal. Reentrant, because such blocks may be nested.
_STDERR_LOCK = threading.RLock()


def run_stage(main: Callable[..., None], **folders: str) -> None:
    """Run one stage of `dvc.yaml`, never twice at the same time; its module's docstring is its `--help`.

    Args:
        main: the stage.
        folders: options that name a folder, with their help. They only say where something is kept: what
            changes results belongs in params.yaml. `main` takes each by its name, a Path or None.
    """
    module = sys.modules[main.__module__]
    assert module.__spec__ is not None
    epilog = "Reads params.yaml in the current folder; `dvc repro` runs it when needed."
    parser = new_parser(module.__spec__.name, module.__doc__, epilog)
    for name, meaning in folders.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, metavar="FOLDER", help=meaning)
    arguments = vars(parser.parse_args())
    running.end_with_dvc()
    gc.set_threshold(*_GC_THRESHOLDS)
    stage = module.__spec__.name.rsplit(".", 1)[-1]

    def run() -> None:
        # Outside a repository no lock file is written, and `main` reports that params.yaml is missing.
        lock = running.locked(RUNNING / f"{stage}.lock", f"still runs {stage} in this repository", _PATIENCE)
        with lock if PARAMS.is_file() else nullcontext():
            main(**arguments)
        running.check_room_in_cache(stage)

    run_and_exit(run)


def new_parser(module: str, description: str | None, epilog: str | None = None) -> argparse.ArgumentParser:
    """The parser of `python -m module`; its `--help` keeps the line breaks of the description."""
    layout = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, epilog=epilog, formatter_class=layout
    )


def run_and_exit(main: Callable[[], int | None]) -> None:
    """Call `main` and exit with its status.

    A UserError, a full disk, and a file or folder that the system refuses end in a message of one line and
    status 1, an UnavailableError in status TEMPORARY. Under a scheduler, which sets WITH_PARENT, the process
    ends with the one that started it.
    """
    # Where the parent ignores this signal, Python takes every child that failed for a success.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # The system takes back all memory at the end: Python need not look for garbage in it first.
    atexit.register(gc.freeze)
    for name in ("stdout", "stderr"):
        # A caller may have closed it, and the next file that opens would take its place.
        stream = getattr(sys, name) or Path(os.devnull).open("w")  # noqa: SIM115 - until the program ends
        if isinstance(stream, io.TextIOWrapper):
            # A terminal may lack a letter of a name.
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, stream)
    if os.environ.get(WITH_PARENT):
        running.end_with_parent()
    try:
        status = main()
        # Short output is still in the buffer, and its errors belong here.
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = TEMPORARY if isinstance(error, UnavailableError) else 1
    except BrokenPipeError:
        # The reader of the output, such as `head`, has ended: nobody would read a message.
        status = 1
    except OSError as error:
        if error.errno in _DISK_FULL:
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
        # Otherwise Python would flush again at its end, and print an error of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def positive(text: str) -> int:
    """The argparse type of an option that is a count, from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 1 on")
    return int(text)


def fraction(text: str) -> float:
    """The argparse type of an option that is a share, in [0, 1]."""
    with suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} must be a number from 0 to 1")


def local_path(text: str) -> Path:
    """The argparse type of an option that names a file or folder on this machine; a store is refused."""
    if "://" in text:
        raise argparse.ArgumentTypeError(f"{text} is no place on this machine: name a file or folder here")
    return Path(text)


def require(module: str, feature: str, extra: str) -> None:
    """Raise UserError if `module`, which `feature` needs, is not installed; the package's `extra` has it."""
    if importlib.util.find_spec(module) is None:
        raise UserError(f"`{feature}` needs {module}: pip install 'malaria-cells[{extra}]'.")


@contextmanager
def without_native_logs() -> Iterator[None]:
    """Keep off the terminal what C++ libraries write to stderr.

    If the block fails, the text is shown after all, because it may say why. Only one thread at a time may do
    this: a second one would take the first one's file for the terminal.
    """
    with _STDERR_LOCK, tempfile.TemporaryFile() as logs:
        sys.stderr.flush()
        terminal = os.dup(2)
        os.dup2(logs.fileno(), 2)
        try:
            yield
        except BaseException:
            logs.seek(0)
            os.write(terminal, logs.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
