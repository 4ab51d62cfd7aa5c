"""Render a stage's metrics and plots as an HTML page, from what DVC reads in the working tree."""

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from dvc.render.convert import to_json
from dvc.render.match import PlotsData, match_defs_renderers
from dvc.repo import Repo
from dvc.repo.plots import infer_data_sources

from malaria import charts, templates
from malaria.evaluate.metrics import interval


def page(repo: Repo, name: str) -> str:
    """A stage's present metrics and plots, as HTML that loads nothing from elsewhere.

    Metrics become tables, and those plots of dvc.yaml whose data the stage writes become pictures. Missing
    files are left out.
    """
    outs = [str(out) for out in repo.stage.get_target(name).outs]
    metrics = repo.metrics.show().get("", {}).get("data", {})
    plots = _plots(repo.plots.show(), outs, repo.plots.templates_dir)
    template = templates.environment(Path(__file__).parent, autoescape=True).get_template("figures.html.j2")
    return template.render(
        stage=name,
        tables={path: list(rows(metrics[path]["data"])) for path in outs if "data" in metrics.get(path, {})},
        pictures={title: charts.svg(plot) for title, plot in plots},
    )


def rows(metrics: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested metrics as rows of name and value; a value with an interval is `value (low to high)`."""
    if not isinstance(metrics, dict):
        yield name, f"{metrics:.4f}" if isinstance(metrics, float) else str(metrics)
    elif "value" in metrics:
        yield name, interval(metrics["value"], metrics.get("low"), metrics.get("high"))
    else:
        for key, child in metrics.items():
            yield from rows(child, f"{name} {key}".strip())


def _plots(data: dict[str, Any], outs: Iterable[str], templates_dir: str | None) -> Iterator[tuple[str, Any]]:
    titles = {
        title
        for title, group in PlotsData(data).group_definitions().items()
        for _, plot_id, definition in group
        for source in infer_data_sources(plot_id, definition)
        if any(PurePosixPath(source).is_relative_to(out) for out in outs)
    }
    for renderer, *_ in match_defs_renderers(data=data, templates_dir=templates_dir):
        if renderer.name in titles and renderer.TYPE == "vega":
            yield from ((renderer.name, chart["content"]) for chart in to_json(renderer))
