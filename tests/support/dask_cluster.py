"""Run a Dask cluster in a separate process, so that Dask changes nothing in the process of the tests."""

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
    """Run a cluster whose workers can import this project; gives its address.

    Args:
        folder: where its program is written, and its workers run.
        environment: variables to add to this process's own.
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
