"""Keep a stage from running twice at the same time, and from outliving the DVC process that started it.

If only DVC is killed, its stage would go on and write the same files as the next run; so it ends with DVC.
It may end at any moment, because results are written whole or not at all. The exception is training's log,
reports/train, which the next run starts again.
"""

import os
import platform
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from malaria import programs
from malaria.errors import UserError

_SHELLS = ("bash", "dash", "fish", "ksh", "sh", "zsh")
_PAUSE = 0.2  # s between two checks whether the parent or DVC still runs


def cores() -> int:
    """How many processor cores this process may use: a batch queue or a container may allow only some."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def end_with_dvc() -> None:
    """From now on, end this process when the DVC that runs it as a stage has ended.

    Nothing happens to a stage that you start by hand: it may outlive its terminal.
    """
    if "DVC_STAGE" in os.environ:
        _end_after(_dvc_process(), _dvc_process)


def end_with_parent(parent: int | None = None) -> None:
    """In a worker process: end it, and its child processes, when its parent has ended.

    parent: the number of that process, which may end before a worker starts.
    """
    _end_after(parent or os.getppid(), os.getppid)


def _end_after(process: int | None, current: Callable[[], int | None]) -> None:
    """End this process when `process`, its parent or DVC, has ended: `current` then gives another or None."""

    def watch() -> None:
        while process is not None and current() == process:
            time.sleep(_PAUSE)
        import psutil

        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
        # SIGKILL, because other threads may still be working.
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start() if process is not None else watch()


def _dvc_process() -> int | None:
    """The DVC process that runs this one, perhaps by way of shells; None if it has ended."""
    import psutil

    with suppress(psutil.NoSuchProcess, ProcessLookupError):
        pid = os.getppid()
        while psutil.Process(pid).name() in _SHELLS:
            pid = int(psutil.Process(pid).ppid())
        # A stage is in DVC's process group; a process that adopts orphans is not.
        if os.getpgid(pid) == os.getpgrp():
            return pid
    return None


def check_room_in_cache(stage: str) -> None:
    """If DVC runs this stage, check that its results fit into DVC's cache, which they are copied to next.

    DVC itself only reports each file that does not fit, and goes on to the next stage.

    Raises:
        UserError: the cache's disk has less room than the results take; as `programs.dvc_cache`.
    """
    if "DVC_STAGE" not in os.environ:
        return
    import yaml

    cache = programs.dvc_cache()
    while not cache.exists():
        cache = cache.parent
    outs = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]["outs"]
    paths = [Path(out if isinstance(out, str) else next(iter(out))) for out in outs]
    files = (file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]))
    # Space on disk: st_blocks counts blocks of 512 bytes.
    needed, free = sum(file.stat().st_blocks for file in files) * 512, shutil.disk_usage(cache).free
    if needed > free:
        raise UserError(
            f"The disk of DVC's cache is full: {cache} has {free / 1e6:,.0f} MB left, and the results of "
            f"{stage} take {needed / 1e6:,.0f}: free some space (`dvc gc --workspace` drops old results), "
            "and run this again."
        )


@contextmanager
def locked(path: Path, activity: str, patience: float = -1) -> Iterator[None]:
    """Hold the lock file `path` while the block runs; the system releases it however the process dies.

    Args:
        activity: what the lock guards, as in "Process 7 {work}".
        patience: s to wait for another process that holds it; -1 waits until it ends.

    Raises:
        UserError: another process still holds it; the message names the process.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        holder = f"Process {path.read_text().strip() or 'unknown'} {activity}"
        if patience:
            print(f"{holder}: waiting for it", file=sys.stderr, flush=True)
        try:
            lock.acquire(timeout=patience)
        except Timeout:
            raise UserError(
                f"{holder}, and both would write the same files: wait for it, or end it."
            ) from None
    try:
        # With the machine's name: in another container or on another machine the number means nothing.
        path.write_text(f"{os.getpid()} on {platform.node()}\n")
        yield
    finally:
        lock.release()
