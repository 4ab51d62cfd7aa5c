"""Alternate compared runs, so that other load on the machine slows all of them alike.

If other programs use the cores, ratios of processor time tell more than those of wall-clock time.
"""

import contextlib
import ctypes
import multiprocessing
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

import pandas as pd

from malaria.errors import UserError

ROOT = Path(__file__).resolve().parents[1]

Result = TypeVar("Result")


def machine() -> str:
    """Describe this machine, because figures depend on it."""
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"


def measure(ways: Mapping[str, Callable[[], Mapping[str, float]]], rounds: int) -> pd.DataFrame:
    """The figures of each way in each round, indexed by `round` and `way`; the ways alternate."""
    rows = {}
    for number in range(1, rounds + 1):
        for way, measure in ways.items():
            rows[number, way] = dict(measure())
            figures = ", ".join(f"{name} {value:,.3f}" for name, value in rows[number, way].items())
            print(f"round {number} of {rounds}, {way}: {figures}", file=sys.stderr, flush=True)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["round", "way"])


def medians(runs: pd.DataFrame) -> pd.DataFrame:
    """The medians over rounds of each way's figures."""
    return runs.groupby("way", sort=False).median()


def ratios(runs: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """The medians over rounds of each way's figures, as multiples of those of the way `baseline`."""
    return medians(runs.div(runs.xs(baseline, level="way"), level="round"))


def run_in_process(run: Callable[..., Result], *arguments: object) -> Result:
    """Call `run` in a new process, and return its result."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(run, *arguments).result()


def command(arguments: list[str], work: Path = ROOT) -> dict[str, float]:
    """Run a command: wall-clock s, processor s of all its processes, MiB of the largest; or UserError."""
    if sys.platform == "linux":
        # Adopt workers whose own parent ends first (PR_SET_CHILD_SUBREAPER of prctl(2)), to count their time.
        ctypes.CDLL(None).prctl(36, 1)
    started = time.monotonic()
    with subprocess.Popen(
        arguments, cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        errors = process.stderr.read().strip()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds, usages = time.monotonic() - started, [usage]
    if process.returncode:
        raise UserError(f"{' '.join(arguments)} ended with status {process.returncode}: {errors}")
    with contextlib.suppress(ChildProcessError):
        while True:
            usages.append(os.wait3(0)[2])
    processor = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return {"s": seconds, "processor s": processor, "MiB": max(usage.ru_maxrss for usage in usages) / 1024}
