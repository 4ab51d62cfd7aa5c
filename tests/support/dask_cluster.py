"""A Dask cluster in a process of its own: what Dask changes in its process stays there."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.project import ROOT

_PROGRAM = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    count, protocol = sys.argv[1:]
    with LocalCluster(
        n_workers=int(count), threads_per_worker=1, protocol=protocol, dashboard_address="127.0.0.1:0"
    ) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""


@contextmanager
def started(
    folder: Path, workers: int = 1, protocol: str = "tcp", environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """The address of a cluster that runs in `folder`, where this project can be imported.

    Args:
        folder: for the program, and where its workers run.
        environment: added to this process's.
    """
    script = folder / "cluster.py"
    script.write_text(_PROGRAM)
    with subprocess.Popen(
        [sys.executable, str(script), str(workers), protocol],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.communicate()
