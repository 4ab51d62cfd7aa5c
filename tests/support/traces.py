"""Find what a test leaves behind by mistake: environment, working directory, open files, processes."""

import contextlib
import gc
import os
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Traces:
    """This process at one moment: `files` are open regular files, `children` ids of child processes."""

    environment: dict[str, str]
    folder: str
    files: frozenset[str]
    children: frozenset[int]


# Set by pytest, or by TensorFlow and other libraries at their first import, always to the same value.
_EXPECTED = ("PYTEST_", "TF_", "TF2_", "TPU_", "KMP_", "GRADIO_", "HDF5_PLUGIN_PATH", "ENABLE_RUNTIME_UPTIME")
# Pools of processes that libraries keep for the next call; they end with this process.
_POOLS = ("loky", "resource_tracker", "forkserver", "malaria.cells.fork_server")


def now() -> Traces:
    """The traces of this process at this moment."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith(_EXPECTED)}
    return Traces(environment, os.getcwd(), _open_files(), _children())


def left_since(before: Traces, *, processes: bool = True) -> list[str]:
    """What has changed since `before`, in words. `processes`: whether child processes count."""
    after = now()
    if after.files - before.files or after.children - before.children:
        # Collect garbage now, so that a warning about an unused file appears in the test that opened it.
        gc.collect()
        after = now()
    changed = {
        name for name in {*before.environment, *after.environment}
        if before.environment.get(name) != after.environment.get(name)
    }  # fmt: skip
    return [
        *(f"{name} in the environment" for name in sorted(changed)),
        *([f"the working directory {after.folder}"] if after.folder != before.folder else []),
        *(f"{name} open" for name in sorted(after.files - before.files)),
        *(
            f"process {number} ({_command(number)})"
            for number in sorted(after.children - before.children)
            if processes
        ),
    ]


def _open_files() -> frozenset[str]:
    """The open regular files, without those that DVC keeps open."""
    paths = set()
    for link in Path("/proc/self/fd").iterdir() if Path("/proc/self/fd").is_dir() else ():
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if target.startswith("/") and not target.startswith(("/dev/", "/proc/", "/sys/")):
            paths.add(target)
    # DVC keeps the tables of its caches open for its next call in this process.
    return frozenset(path for path in paths if "/dvc/repo/" not in path)


def _children() -> frozenset[int]:
    children = set()
    for child in psutil.Process().children():
        # A process may end while it is looked at.
        with contextlib.suppress(psutil.NoSuchProcess):
            command = " ".join(child.cmdline())[:120]
            # A process that is ending has no command line any more, and may belong to a pool.
            if command and not any(pool in command for pool in _POOLS):
                children.add(child.pid)
    return frozenset(children)


def _command(number: int) -> str:
    try:
        return " ".join(psutil.Process(number).cmdline())[:120]
    except psutil.NoSuchProcess:
        return "ended since"
