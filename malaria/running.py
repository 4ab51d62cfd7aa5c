"""A stage runs alone, and no longer than the run that started it.

DVC waits for the stage that it started. Where DVC alone is killed, the stage would go on, and write
beside whatever runs next; here it ends with DVC instead. It may end at any moment: results are written
whole or not at all, but for training's log, reports/train, which the next run begins anew.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NoReturn

from malaria.errors import UserError
from malaria.paths import RUNNING

_SHELLS = ("bash", "dash", "fish", "ksh", "sh", "zsh")
_PAUSE = 0.2  # s between two looks at those who started this process
_PATIENCE = 60.0  # s for one that was told to end
_PR_SET_PDEATHSIG = 1


def end_with_dvc() -> None:
    """From now on, end this process at once when the DVC that runs it as a stage has ended.

    A stage that somebody started by hand may outlive its terminal, and is left alone.
    """
    if "DVC_STAGE" not in os.environ:
        return
    if sys.platform == "linux":
        # The system kills this process in the moment in which its parent dies.
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    above = _above()
    # Whom DVC starts is in DVC's process group; whoever takes in orphans is not.
    if _groups(above) != {os.getpgrp()}:
        _end()
    threading.Thread(target=_watch, args=(above,), daemon=True).start()


def _above() -> list[int]:
    """The processes above this one, up to DVC: between the two, some shells stay."""
    import psutil

    found = [os.getppid()]
    try:
        while psutil.Process(found[-1]).name() in _SHELLS:
            found.append(psutil.Process(found[-1]).ppid())
    except psutil.NoSuchProcess:
        _end()
    return found


def _groups(processes: list[int]) -> set[int]:
    try:
        return {os.getpgid(process) for process in processes}
    except ProcessLookupError:
        return set()


def _watch(above: list[int]) -> None:
    """End this process once another has taken the place of one of those above it."""
    while above == _above():
        time.sleep(_PAUSE)
    _end()


def _end() -> NoReturn:
    # At once, and whatever other threads are in the middle of.
    os.kill(os.getpid(), signal.SIGKILL)
    raise SystemExit


def end_with_main() -> None:
    """In a worker process: end it, and all that it started, when the process that it works for has ended."""
    main = multiprocessing.parent_process()
    if main is not None:
        threading.Thread(target=_end_after, args=(main,), daemon=True).start()


def _end_after(main: BaseProcess) -> None:
    import psutil

    main.join()
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
    _end()


@contextmanager
def alone(stage: str, folder: Path = RUNNING, patience: float = _PATIENCE) -> Iterator[None]:
    """Hold the lock of `stage` in this repository; the system lets go of it when a process dies.

    Args:
        patience: s to wait for another process that holds it.

    Raises:
        UserError: another process still runs the stage; the sentence names it.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(exist_ok=True)
    path = folder / f"{stage}.lock"
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"Process {_holder(path)} still runs {stage} here: waiting for it", file=sys.stderr, flush=True)
        try:
            lock.acquire(timeout=patience)
        except Timeout:
            raise UserError(
                f"Process {_holder(path)} still runs {stage} in this repository, and two of them would write "
                "the same files: wait for it, or end it, and run again."
            ) from None
    try:
        path.write_text(f"{os.getpid()}\n")
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str:
    try:
        return path.read_text().strip() or "unknown"
    except OSError:
        return "unknown"
