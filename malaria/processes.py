"""Apply a function to many items in parallel processes, one for each core that this one may use."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from joblib import Parallel, cpu_count, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError
from tqdm import tqdm

from malaria import running
from malaria.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

# With fewer batches another process costs more than it saves.
_BATCHES_PER_PROCESS = 8
_BATCH_SIZE = 50


def map_in_order(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    name: str,
    processes: int | None = None,
    *,
    batch: int = _BATCH_SIZE,
    unit: str = "images",
) -> Iterator[Result]:
    """The results of `function` for all `items`, in their order, with a progress bar called `name`.

    Args:
        function: a function of a module, or a partial of one, because it is sent to other processes.
        processes: 1 stays in this one; None chooses by the machine's cores and the number of items.
        batch: items that are sent together.
        unit: the bar's name for the items.

    Raises:
        UserError: a process was killed, as the system does when memory runs out.
    """
    processes = processes or min(cpu_count(), 1 + len(items) // (_BATCHES_PER_PROCESS * batch))
    options = {"initializer": running.end_with_parent, "initargs": (os.getpid(),)}
    workers = Parallel(processes, batch_size=batch, return_as="generator", **options)
    results = workers(delayed(function)(item) for item in items)
    try:
        # disable=None: no bar without a terminal, because it would fill a log.
        yield from tqdm(results, name, len(items), unit=f" {unit}", disable=None)
    except TerminatedWorkerError:
        raise UserError("A worker process was killed, most likely for lack of memory: free some.") from None
