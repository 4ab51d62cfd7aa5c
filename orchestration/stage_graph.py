"""Print the stage graph as JSON, as DVC itself sees it.

It is a list in the order of dvc.yaml. Each stage has `name`, `desc`, `cmd`, `after` (the stages whose outputs
it reads), `outs` (what it writes) and `metrics` (those outputs that are metrics).
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo, lock_repo

from malaria.command import new_parser, run_and_exit
from malaria.errors import UserError


def read(repo: Repo) -> list[dict[str, Any]]:
    """Every stage with a command; paths are relative to the root of the repository."""
    # In DVC's graph, edges point from a stage to the stages whose outputs it needs.
    upstream_of = repo.index.graph.successors
    return [
        {
            "name": stage.addressing,
            "desc": stage.desc or "",
            "cmd": str(stage.cmd),
            "after": sorted(upstream.addressing for upstream in upstream_of(stage) if upstream.cmd),
            "outs": [str(out) for out in stage.outs],
            "metrics": [str(out) for out in stage.metrics],
        }
        for stage in repo.index.stages
        if stage.cmd
    ]


@contextmanager
def open_repo(lock: bool = False) -> Iterator[Repo]:
    """The repository of the current folder.

    lock: wait until no other DVC command holds the repository, and hold it until the block ends, except while
    a stage runs. DVC then reads each file once for the whole block.

    Raises:
        UserError: DVC cannot read dvc.yaml, or something that dvc.yaml names.
    """
    try:
        with Repo(_wait_for_lock=lock) as repo, lock_repo(repo) if lock else nullcontext():
            yield repo
    except DvcException as error:
        raise UserError(f"DVC cannot read the stages: {error}") from None


def main() -> None:
    new_parser("orchestration.stage_graph", __doc__).parse_args()
    with open_repo() as repo:
        print(json.dumps(read(repo), indent=1))


if __name__ == "__main__":
    run_and_exit(main)
