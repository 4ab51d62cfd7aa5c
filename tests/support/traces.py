"""What a test may leave behind by mistake: environment, working directory, open files, processes."""

import contextlib
import gc
import os
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Traces:
    """A process at one moment: `files` are the regular ones that are open, `children` its processes."""

    environment: dict[str, str]
    folder: str
    files: frozenset[str]
    children: frozenset[int]


# Set by pytest itself, or by TensorFlow and other libraries at their first import, always to the same.
_EXPECTED = ("PYTEST_", "TF_", "TF2_", "TPU_", "KMP_", "GRADIO_", "HDF5_PLUGIN_PATH", "ENABLE_RUNTIME_UPTIME")
# Pools that libraries keep for the next call: they end with this process.
_POOLS = ("loky", "resource_tracker", "forkserver", "malaria.cells.zygote")


def now() -> Traces:
    """What there is at this moment."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith(_EXPECTED)}
    return Traces(environment, os.getcwd(), _open_files(), _children())


def left_since(before: Traces, *, processes: bool = True) -> list[str]:
    """What has changed, each in words; empty where nothing has. Child processes count where `processes`."""
    after = now()
    if after.files - before.files or after.children - before.children:
        # What waits for the collector is closed here, and warns in the test that it is of.
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
    """Regular files that a test may have opened: those of libraries stay open for good."""
    found = set()
    for link in Path("/proc/self/fd").iterdir() if Path("/proc/self/fd").is_dir() else ():
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if target.startswith("/") and not target.startswith(("/dev/", "/proc/", "/sys/")):
            found.add(target)
    # DVC keeps the tables of its caches open for its next call in this process.
    return frozenset(name for name in found if "/dvc/repo/" not in name)


def _children() -> frozenset[int]:
    found = set()
    for child in psutil.Process().children():
        # One may end while it is looked at.
        with contextlib.suppress(psutil.NoSuchProcess):
            command = " ".join(child.cmdline())[:120]
            # One that is ending has no command line any more: it may be a pool's.
            if command and not any(pool in command for pool in _POOLS):
                found.add(child.pid)
    return frozenset(found)


def _command(number: int) -> str:
    try:
        return " ".join(psutil.Process(number).cmdline())[:120]
    except psutil.NoSuchProcess:
        return "ended since"
