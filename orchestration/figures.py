"""A stage's metrics and plots, as DVC reads them from the working tree."""

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

from dvc.render.convert import to_json
from dvc.render.match import PlotsData, match_defs_renderers
from dvc.repo import Repo
from dvc.repo.plots import infer_data_sources

from orchestration.stage_graph import Stage


def of(repo: Repo, stage: Stage) -> dict[str, Any]:
    """The stage's figures as they are now, ready for JSON.

    Returns:
        `metrics`: file to its content; `plots`: title to a complete Vega-Lite specification, of the plots
        of dvc.yaml whose data the stage writes. What is not there is left out.
    """
    shown = repo.metrics.show(targets=list(stage.metrics)) if stage.metrics else {}
    metrics = shown.get("", {}).get("data", {})
    return {
        "metrics": {path: content["data"] for path, content in metrics.items() if "data" in content},
        "plots": dict(_plots(repo.plots.show(), stage.outs, repo.plots.templates_dir)),
    }


def _plots(shown: dict[str, Any], outs: Iterable[str], templates: str | None) -> Iterator[tuple[str, Any]]:
    theirs = {
        title
        for title, group in PlotsData(shown).group_definitions().items()
        for _, inner, definition in group
        if any(_writes(outs, source) for source in infer_data_sources(inner, definition))
    }
    for renderer, *_ in match_defs_renderers(data=shown, templates_dir=templates):
        if renderer.name in theirs and renderer.TYPE == "vega":
            yield from ((renderer.name, picture["content"]) for picture in to_json(renderer))


def _writes(outs: Iterable[str], path: str) -> bool:
    return any(PurePosixPath(path).is_relative_to(out) for out in outs)
