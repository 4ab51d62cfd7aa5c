"""One function over many items: one after the other here, or as tasks of an engine's workers."""

import argparse
import functools
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from malaria import running
from malaria.command import how_many
from malaria.predict import engine as engines

Item = TypeVar("Item")
Result = TypeVar("Result")


def spread(
    function: Callable[[Item], Result], items: Iterable[Item], engine: str = "none", workers: int = 1
) -> Iterator[tuple[Item, Result]]:
    """Each item with `function(item)`, as they come; in the items' order only where engine is none.

    With an engine each call has a process of its own, in the same folder, and its result travels back:
    Dask's threads draw random numbers, which would make a seeded training another one.

    Args:
        function: a module's own function, or one of the script that runs.
        engine: one of `malaria.predict.engine.NAMES`.
        workers: how many at once on this machine. TensorFlow takes as many threads in each as it takes
            alone, and so gives the same bytes.

    Raises:
        UserError: the engine is not installed, or a call's process was killed again and again. Errors of
            `function` come as they are.
    """
    if engine == "none":
        yield from ((item, function(item)) for item in items)
        return
    with engines.cluster(workers) as client:
        yield from engines.as_they_come(client, functools.partial(_apart, function), items)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add `--engine` and `--workers`, as `spread` takes them."""
    parser.add_argument("--engine", choices=engines.NAMES, default="none", help="spreads the work (none)")
    parser.add_argument("--workers", type=how_many, default=2, help="how many at once, with an engine (2)")


def _apart(function: Callable[[Item], Result], item: Item) -> Result:
    # Pickles functions of the script that runs, too; the engine brings it.
    import cloudpickle

    call = cloudpickle.dumps(functools.partial(function, item))
    spawn = multiprocessing.get_context("spawn")
    # By number: the worker may be killed while the process starts.
    ends = functools.partial(running.end_with_parent, os.getpid())
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=ends) as process:
        try:
            result: Result = process.submit(_call, call).result()
        except BrokenProcessPool:
            # The worker dies too: Dask then gives the task to another, a few times.
            os._exit(1)
    return result


def _call(pickled: bytes) -> Any:
    import cloudpickle

    return cloudpickle.loads(pickled)()
