"""Print the stage graph as JSON, as DVC itself sees it.

It is a list in the order of dvc.yaml. Each stage has `name`, `desc`, `cmd`, `after` (the stages whose outputs
it reads), `outs` (what it writes) and `metrics` (those outputs that are metrics).
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo

from malaria.command import end_with, options
from malaria.errors import UserError


@dataclass(frozen=True)
class Stage:
    """A stage of the current folder's DVC repository; paths are relative to its root."""

    name: str
    desc: str
    cmd: str
    after: tuple[str, ...]
    outs: tuple[str, ...]
    metrics: tuple[str, ...]


def read() -> list[Stage]:
    """Every stage with a command, in the order of dvc.yaml.

    Raises:
        UserError: DVC cannot read dvc.yaml, or something that dvc.yaml names.
    """
    try:
        with Repo() as repo:
            # In DVC's graph, edges point from a stage to the stages whose outputs it needs.
            needs = repo.index.graph.successors
            return [_stage(stage, needs(stage)) for stage in repo.index.stages if stage.cmd]
    except DvcException as error:
        raise UserError(f"DVC cannot read the stages: {error}") from None


def _stage(stage: Any, needs: Iterable[Any]) -> Stage:
    return Stage(
        name=stage.addressing,
        desc=stage.desc or "",
        cmd=str(stage.cmd),
        after=tuple(sorted(above.addressing for above in needs if above.cmd)),
        outs=tuple(str(out) for out in stage.outs),
        metrics=tuple(str(out) for out in stage.outs if out.metric),
    )


def main() -> None:
    options("orchestration.stage_graph", __doc__).parse_args()
    print(json.dumps([asdict(stage) for stage in read()], indent=1))


if __name__ == "__main__":
    end_with(main)
