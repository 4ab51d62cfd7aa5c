"""One function over many files, in as many processes as there are cores that this one may use."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from joblib import Parallel, cpu_count, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError
from tqdm import tqdm

from malaria import running
from malaria.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

# Under so many batches a process costs more than it saves.
_BATCHES_A_PROCESS = 8
_ITEMS_A_BATCH = 50


def in_order(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    name: str,
    processes: int | None = None,
    *,
    batch: int = _ITEMS_A_BATCH,
    unit: str = "images",
) -> Iterator[Result]:
    """`function`'s results for all `items`, in their order, with a progress bar called `name`.

    Args:
        function: a module's own function, or a partial of one, since it travels to other processes.
        processes: 1 stays in this one; None takes what the machine and the number of items suggest.
        batch: items that travel together.
        unit: what the bar calls the items.

    Raises:
        UserError: a process was killed, as the system does when memory runs out.
    """
    processes = processes or min(cpu_count(), 1 + len(items) // (_BATCHES_A_PROCESS * batch))
    workers = Parallel(
        processes, batch_size=batch, return_as="generator", initializer=running.end_with_parent
    )
    results = workers(delayed(function)(item) for item in items)
    try:
        # No bar where no terminal shows it: a log would fill up.
        yield from tqdm(results, name, len(items), unit=f" {unit}", disable=None)
    except TerminatedWorkerError:
        raise UserError("A worker process was killed, most likely for lack of memory: free some.") from None
