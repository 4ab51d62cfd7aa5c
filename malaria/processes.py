"""One function over many files, in as many processes as there are cores."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from typing import TypeVar

from tqdm import tqdm

from malaria import running
from malaria.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

# Under so many batches a process costs more than it saves.
_BATCHES_A_PROCESS = 8
_ITEMS_A_BATCH = 50


def in_order(
    function: Callable[[Sequence[Item]], Sequence[Result]],
    items: Sequence[Item],
    name: str,
    processes: int | None = None,
    *,
    batch: int = _ITEMS_A_BATCH,
    unit: str = "images",
) -> Iterator[Result]:
    """`function`'s results for all `items`, in their order, with a progress bar called `name`.

    Args:
        function: takes a batch of items and gives a result for each. A module's own function, or a
            partial of one, since it travels to other processes; each of these imports its module,
            which should therefore import little.
        processes: 1 stays in this one; None takes what the machine and the number of items suggest.
        batch: items that travel together.
        unit: what the bar calls the items.

    Raises:
        UserError: a process was killed, as the system does when memory runs out.
    """
    processes = processes or min(len(cores()), 1 + len(items) // (_BATCHES_A_PROCESS * batch))
    batches = [items[start : start + batch] for start in range(0, len(items), batch)]
    # No bar where nobody watches: a log would fill with it.
    with tqdm(total=len(items), desc=name, unit=f" {unit}", disable=None) as bar:
        for results in _batch_results(function, batches, processes):
            yield from results
            bar.update(len(results))


def prepare(function: Callable[..., object]) -> None:
    """Let what workers need for `function` be imported from now on, beside whatever this process does next.

    For a program that has imports of its own to wait for before it can call `in_order`, which works without.
    """
    _context(function)
    forkserver.ensure_running()


def _context(function: Callable[..., object]) -> BaseContext:
    # A fork of this process would copy locks that its threads hold; the fork server has no threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([getattr(function, "func", function).__module__])
    return context


def _batch_results(
    function: Callable[[Sequence[Item]], Sequence[Result]], batches: list[Sequence[Item]], processes: int
) -> Iterator[Sequence[Result]]:
    if processes == 1:
        yield from map(function, batches)
        return
    pool = ProcessPoolExecutor(processes, mp_context=_context(function), initializer=running.end_with_main)
    try:
        yield from pool.map(function, batches)
    except BrokenProcessPool:
        raise UserError(
            "A worker process was killed, most likely for lack of memory: free some and run again (a script "
            'of your own must be a file, with its calls under `if __name__ == "__main__":`).'
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def cores() -> list[int]:
    """The cores that this process may use; counted where the system names none."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
