"""Tasks spread over worker processes by Dask, on this machine or on a cluster that runs already.

The one place that knows Dask, which is imported where it is used: nothing else needs it installed.
A task whose worker is killed runs again on another; what it gives must be the same each time.
"""

import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from malaria import processes
from malaria.errors import UserError

NAMES = ("none", "dask")

Item = TypeVar("Item")
Result = TypeVar("Result")

# Tasks that wait for each one that runs: workers never idle, and what is not finished stays with us.
_AHEAD = 2

# Of a worker that runs the same task each time it dies, so often.
_DEATHS = 3

_CONNECT_SECONDS = 20

# What Dask tells of killed workers is for its developers; ours is told by errors.
_QUIET = dict.fromkeys(("distributed", "distributed.client", "distributed.gc"), "critical")


@dataclass(frozen=True)
class Cluster:
    """Workers that tasks can be given to.

    slots: tasks that run at once. threads: a task may use, so that together they fill the machine and
    no more; 1 on a cluster elsewhere, whose own settings say how many tasks a machine takes. cores: for
    each worker of this machine those that are its; none on a cluster elsewhere.
    """

    client: Any
    slots: int
    threads: int
    cores: tuple[tuple[int, ...], ...]

    def as_they_come(
        self, function: Callable[..., Result], items: Iterable[Item], *common: Any
    ) -> Iterator[tuple[Item, Result]]:
        """Each item with `function(item, *common)`, in the order in which tasks end.

        Items are taken as workers come free, so that there may be any number.

        Args:
            function: a module's own function, or one of the script that runs.
            common: sent to each worker once.

        Raises:
            UserError: a task's workers were killed again and again, or the cluster is gone.
        """
        from distributed import as_completed
        from distributed.client import FutureCancelledError
        from distributed.scheduler import KilledWorker

        # Results of tasks, since Dask makes those again where their worker dies.
        shared = [self.client.submit(_itself, value, pure=False) for value in common]
        waiting = iter(items)
        running: dict[Any, Item] = {}

        def start() -> Any:
            for item in waiting:
                task = self.client.submit(_run, self.cores, function, item, *shared, pure=False)
                running[task] = item
                return task
            return None

        done = as_completed([task for _ in range((1 + _AHEAD) * self.slots) if (task := start()) is not None])
        try:
            for task in done:
                result = task.result()
                yield running.pop(task), result
                if (another := start()) is not None:
                    done.add(another)
        except KilledWorker:
            raise UserError(
                f"A task's worker process was killed {_DEATHS + 1} times, most likely for lack of memory: "
                "give it more, or fewer workers, and run again."
            ) from None
        except FutureCancelledError as error:
            raise UserError(f"The cluster is gone ({error.reason}): start it and run again.") from None
        except (ModuleNotFoundError, RuntimeError) as error:
            # Dask's own, where its scheduler cannot read what a task is; the module is not named.
            if not isinstance(error, ModuleNotFoundError) and "deserialization" not in str(error):
                raise
            raise UserError(
                "The cluster lacks this project, or what it needs: install the same version of it, with the "
                "extra engine, for its scheduler and its workers."
            ) from None
        finally:
            for task in running:
                task.cancel()


@contextmanager
def cluster(workers: int, scheduler: str | None = None) -> Iterator[Cluster]:
    """Workers for as long as the block runs.

    Those of this machine are processes that are ended with the block, also where this process is
    killed; they talk over TLS with keys made for this run, since Dask's messages are code to whoever
    may send one.

    Args:
        workers: how many processes to start on this machine, at least 1.
        scheduler: the address of a cluster that runs already, used instead; `tls://` takes its
            certificates from Dask's own configuration.

    Raises:
        UserError: Dask is not installed, or there is no such cluster.
    """
    if workers < 1:
        raise UserError(f"--workers is {workers}, but must be at least 1.")
    needs("distributed", "dask")
    if scheduler is None:
        with _here(workers) as started:
            yield started
        return
    from distributed import Client

    try:
        client = Client(scheduler, timeout=_CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--scheduler {scheduler} does not answer ({error}): start a Dask scheduler there, or leave "
            "the option out for workers on this machine."
        ) from None
    with client:
        slots = sum(client.nthreads().values())
        if slots == 0:
            raise UserError(f"The Dask cluster at {scheduler} has no workers: start some and run again.")
        yield Cluster(client, slots, 1, ())


def needs(module: str, what: str) -> None:
    """Raise UserError where `module` is not installed, in whose absence `what` cannot be done."""
    if importlib.util.find_spec(module) is None:
        raise UserError(f"`{what}` needs {module}: pip install '.[engine]'.")


@contextmanager
def _here(workers: int) -> Iterator[Cluster]:
    import dask.config

    _import_quietly()
    cores = processes.cores()
    # Threads as without an engine, though on fewer cores: how many there are decides in which order sums are
    # added up, and so the last bits of all that is trained.
    threads = (
        "TF_NUM_INTRAOP_THREADS",
        "TF_NUM_INTEROP_THREADS",
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
    )
    environment = {
        "DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "critical",
        **dict.fromkeys(threads, str(len(cores))),
    }
    ours = {
        "distributed.logging": _QUIET,
        "distributed.scheduler.allowed-failures": _DEATHS,
        # Tasks may start processes of their own, as cross-validation's do.
        "distributed.worker.daemon": False,
        # On a busy machine a new worker takes longer than the 15 s after which its place is given up.
        "distributed.deploy.lost-worker-timeout": "1 hour",
        # Neither pages nor profiles, which would only say what goes on.
        "distributed.worker.profile.enabled": False,
        "distributed.scheduler.http.routes": [],
        "distributed.worker.http.routes": [],
        **{f"distributed.nanny.pre-spawn-environ.{name}": value for name, value in environment.items()},
    }
    with dask.config.set(ours):
        from distributed import Client, LocalCluster, Security

        started = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            security=Security.temporary(),
            dashboard_address="127.0.0.1:0",
        )
        with started, Client(started) as client:
            yield Cluster(client, workers, max(1, len(cores) // workers), shares(cores, workers))


def _import_quietly() -> None:
    """Import Dask's `distributed` with `_QUIET`, which it heeds in that moment alone."""
    import dask.config

    if "distributed" in sys.modules:
        return
    with dask.config.set({"distributed.logging": _QUIET}):
        import distributed  # noqa: F401
    # The end of that block has taken away what the import brought along: Dask's own defaults.
    dask.config.refresh()


def shares(cores: Sequence[int], workers: int) -> tuple[tuple[int, ...], ...]:
    """Cores for each worker: different ones where there are enough, and none left over."""
    return tuple(tuple(cores[number::workers]) or (cores[number % len(cores)],) for number in range(workers))


def _run(
    cores: tuple[tuple[int, ...], ...], function: Callable[..., Result], item: Item, *common: Any
) -> Result:
    """What a worker does: `function`, on the cores that are the worker's."""
    if cores and hasattr(os, "sched_setaffinity"):
        from distributed import get_worker

        # Of this thread, and of all threads and processes that it starts.
        os.sched_setaffinity(0, cores[int(get_worker().name)])
    return function(item, *common)


def _itself(value: Item) -> Item:
    return value
