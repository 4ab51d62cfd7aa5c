"""One function over many items: one after the other here, or as tasks of an engine's workers."""

import argparse
import functools
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from malaria.command import how_many
from malaria.errors import UserError
from malaria.predict import engine as engines

Item = TypeVar("Item")
Result = TypeVar("Result")

# A process that was killed is started again, so often in all.
_TRIES = 3


def spread(
    function: Callable[[Item], Result], items: Iterable[Item], engine: str = "none", workers: int = 1
) -> Iterator[tuple[Item, Result]]:
    """Each item with `function(item)`, as they come; in the items' order only where engine is none.

    With an engine each call has a process of its own, in the same folder, and its result travels back:
    Dask's threads draw random numbers, which would make a seeded training another one.

    Args:
        function: a module's own function, or one of the script that runs.
        engine: one of `malaria.predict.engine.NAMES`.
        workers: how many at once on this machine, each with its share of the cores. TensorFlow gives the
            same bytes on a share as on all (where the system knows shares: Linux).

    Raises:
        UserError: the engine is not installed, or a call's process was killed again and again. Errors of
            `function` come as they are.
    """
    if engine == "none":
        for item in items:
            yield item, function(item)
        return
    with engines.cluster(workers) as cluster:
        yield from cluster.as_they_come(functools.partial(_apart, function), items)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add `--engine` and `--workers`, as `spread` takes them."""
    parser.add_argument("--engine", choices=engines.NAMES, default="none", help="spreads the work (none)")
    parser.add_argument("--workers", type=how_many, default=2, help="how many at once, with an engine (2)")


def _apart(function: Callable[[Item], Result], item: Item) -> Result:
    # Pickles functions of the script that runs, too; the engine brings it.
    import cloudpickle

    call = cloudpickle.dumps(functools.partial(function, item))
    for _ in range(_TRIES):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            try:
                result: Result = process.submit(_call, call).result()
            except BrokenProcessPool:
                continue
            return result
    raise UserError(
        f"A task's process was killed {_TRIES} times, most likely for lack of memory: take fewer --workers."
    )


def _call(pickled: bytes) -> Any:
    import cloudpickle

    return cloudpickle.loads(pickled)()
