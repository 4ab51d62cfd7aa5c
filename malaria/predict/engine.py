"""Run tasks in worker processes with Dask, on this machine or on a cluster that is already running.

Only this module uses Dask, which is imported where it is used, so that nothing else needs it installed. A
task whose worker is killed runs again on another: it must give the same result each time.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from malaria.command import require
from malaria.errors import UserError

if TYPE_CHECKING:
    from distributed import Client, Future

NAMES = ("none", "dask")

Item = TypeVar("Item")
Result = TypeVar("Result")

# Tasks sent to the cluster for each thread of a worker: no worker is ever idle, and all other tasks wait in
# this process.
_TASKS_PER_THREAD = 3

_CONNECT_SECONDS = 20

# Dask settings of a cluster on this machine.
_LOCAL_CONFIG = {
    # Tasks may start processes of their own.
    "distributed.worker.daemon": False,
    # Workers keep this process's environment: the number of threads decides in which order sums are added up,
    # and so the last bits.
    "distributed.nanny.pre-spawn-environ": {},
    # On a busy machine a new worker may need more than the 15 s after which Dask gives it up.
    "distributed.deploy.lost-worker-timeout": "1 hour",
    # No web pages and no profiles, which would only show what is going on.
    "distributed.worker.profile.enabled": False,
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}


@contextmanager
def cluster(workers: int, scheduler: str | None = None) -> Iterator["Client"]:
    """Provide workers for as long as the block runs.

    Workers on this machine are processes that end with the block, even if this process is killed. They
    communicate over TLS with keys made for this run, because Dask runs the code that a message contains.

    Args:
        workers: how many processes to start on this machine, at least 1.
        scheduler: the address of a running cluster to use instead; `tls://` takes its certificates from
            Dask's own configuration.

    Raises:
        UserError: Dask is not installed, or there is no such cluster.
    """
    require("distributed", "dask", "engine")
    import dask.config
    from distributed import Client, LocalCluster, Security

    # If the scheduler is gone, our own error says so, without Dask's traceback before it.
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    with ExitStack() as stack:
        if scheduler is None:
            stack.callback(_restore_environment, dict(os.environ))
            stack.enter_context(dask.config.set(_LOCAL_CONFIG))
            local_cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                security=Security.temporary(),
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
            )
            scheduler = stack.enter_context(local_cluster)
        try:
            client = stack.enter_context(Client(scheduler, timeout=_CONNECT_SECONDS))
        except (OSError, ValueError) as error:
            raise UserError(
                f"--scheduler {scheduler} does not answer ({error}): start a Dask scheduler there, or leave "
                "the option out for workers on this machine."
            ) from None
        if not client.nthreads():
            raise UserError(f"The Dask cluster at {scheduler} has no workers: start some and run again.")
        yield client


def map_unordered(
    client: "Client", function: Callable[..., Result], items: Iterable[Item], *common: Any
) -> Iterator[tuple[Item, Result]]:
    """Each item with `function(item, *common)`, in the order in which the tasks finish.

    Items are taken as workers become free, so there may be any number of them.

    Args:
        function: a function of a module, or of the script that runs.
        common: sent to each worker once.

    Raises:
        UserError: a task's workers were killed repeatedly, the cluster is gone, or it lacks this project.
    """
    from distributed import as_completed
    from distributed.client import FutureCancelledError
    from distributed.scheduler import KilledWorker

    # Passed as results of tasks, because Dask makes those again if their worker dies.
    shared = [client.submit(_identity, value, pure=False) for value in common]
    pending: dict[Future, Item] = {}
    completed = as_completed()

    def threads() -> int:
        try:
            return sum(client.nthreads().values())
        except OSError as error:
            raise _cluster_gone(error) from None

    try:
        for item in items:
            task = client.submit(function, item, *shared, pure=False)
            pending[task] = item
            completed.add(task)
            if len(pending) >= _TASKS_PER_THREAD * threads():
                task = next(completed)
                yield pending.pop(task), task.result()
        for task in completed:
            yield pending.pop(task), task.result()
    except KilledWorker as error:
        raise UserError(
            f"A task's worker process was killed {error.allowed_failures + 1} times, most likely for lack "
            "of memory: give it more, or fewer workers, and run again."
        ) from None
    except FutureCancelledError as error:
        raise _cluster_gone(error.reason) from None
    except (ModuleNotFoundError, RuntimeError) as error:
        # Dask raises these if its scheduler cannot read a task; it does not name the missing module.
        if not isinstance(error, ModuleNotFoundError) and "deserialization" not in str(error):
            raise
        raise UserError(
            "The cluster lacks this project, or what it needs: install the same version of it, with the "
            "extra engine, for its scheduler and its workers."
        ) from None


def _restore_environment(environment: dict[str, str]) -> None:
    """Undo what Dask sets in this process's environment for its workers."""
    os.environ.clear()
    os.environ.update(environment)


def _cluster_gone(reason: object) -> UserError:
    return UserError(f"The cluster is gone ({reason}): start it and run again.")


def _identity(value: Item) -> Item:
    return value
