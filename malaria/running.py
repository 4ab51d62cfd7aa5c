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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from malaria.errors import UserError

_SHELLS = ("bash", "dash", "fish", "ksh", "sh", "zsh")
_PAUSE = 0.2  # s between two looks at the process that started this one
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
    dvc = _dvc()
    if dvc is None:
        _end()

    def until_ended() -> None:
        while _dvc() == dvc:
            time.sleep(_PAUSE)

    _end_after(until_ended)


def _dvc() -> int | None:
    """The process that runs this one, but for shells between; None where it has ended."""
    import psutil

    with suppress(psutil.NoSuchProcess, ProcessLookupError):
        above = os.getppid()
        while psutil.Process(above).name() in _SHELLS:
            above = int(psutil.Process(above).ppid())
        # DVC's stages are in its process group; a process that takes in orphans is not.
        if os.getpgid(above) == os.getpgrp():
            return above
    return None


def end_with_main() -> None:
    """In a worker process: end it at once when the process that it works for has ended."""
    main = multiprocessing.parent_process()
    if main is not None:
        _end_after(main.join)


def _end_after(wait: Callable[[], None]) -> None:
    """End this process once `wait` returns."""

    def end() -> None:
        wait()
        _end()

    threading.Thread(target=end, daemon=True).start()


def _end() -> None:
    # At once, whatever other threads are in the middle of.
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def locked(path: Path, work: str, patience: float = -1) -> Iterator[None]:
    """Hold the lock file `path`; the system lets go of it when a process dies, however it dies.

    Args:
        work: what the lock guards, as in "Process 7 {work}".
        patience: s to wait for another process that holds it; -1 waits until it ends.

    Raises:
        UserError: another process still holds it; the sentence names it.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        other = f"Process {path.read_text().strip() or 'unknown'} {work}"
        if patience:
            print(f"{other}: waiting for it", file=sys.stderr, flush=True)
        try:
            lock.acquire(timeout=patience)
        except Timeout:
            raise UserError(
                f"{other}, and two of them would write the same files: wait for it, or end it, and run again."
            ) from None
    try:
        path.write_text(f"{os.getpid()}\n")
        yield
    finally:
        lock.release()
