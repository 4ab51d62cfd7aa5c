"""One function over many items: one after the other here, or as tasks of an engine's workers."""

import argparse
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from malaria import engine as engines

Item = TypeVar("Item")
Result = TypeVar("Result")


def spread(
    function: Callable[[Item], Result], items: Iterable[Item], engine: str = "none", workers: int = 1
) -> Iterator[tuple[Item, Result]]:
    """Each item with `function(item)`, as they come; in the items' order only where engine is none.

    Args:
        function: a module's own function, or one of the script that runs. With an engine it runs in
            another process, in the same folder, and its result travels back.
        engine: one of `malaria.engine.NAMES`.
        workers: processes on this machine, each with its share of the cores. TensorFlow gives the same
            bytes on a share as on all (where the system knows shares: Linux).

    Raises:
        UserError: the engine is not installed, or a task's worker was killed again and again. Errors
            of `function` come as they are.
    """
    if engine == "none":
        for item in items:
            yield item, function(item)
        return
    with engines.cluster(workers) as cluster:
        yield from cluster.as_they_come(function, items)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add `--engine` and `--workers`, as `spread` takes them."""
    parser.add_argument(
        "--engine", choices=engines.NAMES, default="none", help="that spreads the work (none)"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes, with an engine (2)")
