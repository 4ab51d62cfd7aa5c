"""The page behind a task's link: the stage's metrics and plots, as they were when that task ended."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import fastapi
import jinja2
import vl_convert
from airflow.api_fastapi.core_api.security import get_user
from airflow.configuration import AIRFLOW_HOME
from airflow.plugins_manager import AirflowPlugin
from airflow.sdk import BaseOperatorLink
from fastapi.responses import HTMLResponse

PREFIX = "/stage-figures"
# Written by `python -m orchestration.run_stage`, a file a task instance, named by its id.
FIGURES = Path(AIRFLOW_HOME, "stage-figures")

_pages = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True)
site = fastapi.FastAPI(openapi_url=None, dependencies=[fastapi.Depends(get_user)])


@site.get("/{task_instance}")
def page(task_instance: UUID, stage: Annotated[str, fastapi.Query()] = "") -> HTMLResponse:
    """Metrics as a table, plots as pictures; nothing is fetched from anywhere."""
    file = FIGURES / f"{task_instance}.json"
    figures = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    tables, pictures = {}, {}
    if figures:
        tables = {name: list(rows(content)) for name, content in figures["metrics"].items()}
        pictures = {title: vl_convert.vegalite_to_svg(plot) for title, plot in figures["plots"].items()}
    template = _pages.get_template("stage_figures_page.html.j2")
    shown = template.render(stage=stage, written=figures is not None, tables=tables, pictures=pictures)
    return HTMLResponse(shown)


def rows(metrics: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested metrics as rows of a name and a value, `value (low to high)` where there is an interval."""
    if not isinstance(metrics, dict):
        yield name, _text(metrics)
    elif "value" in metrics:
        interval = f" ({_text(metrics['low'])} to {_text(metrics['high'])})" if "low" in metrics else ""
        yield name, _text(metrics["value"]) + interval
    else:
        for key, below in metrics.items():
            yield from rows(below, f"{name} {key}".strip())


def _text(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


class FiguresLink(BaseOperatorLink):  # type: ignore[misc] # Airflow is not in the environment mypy sees
    """The button on the page of a task instance."""

    name = "Metrics and plots"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:  # noqa: ARG002 - as Airflow calls it
        """The page of this task instance: at the end of a task, `ti_key` is the task instance itself."""
        return f"{PREFIX}/{ti_key.id}?stage={ti_key.task_id}"


class StageFigures(AirflowPlugin):  # type: ignore[misc] # as above
    """Tells Airflow of the page."""

    name = "stage_figures"
    fastapi_apps = [{"app": site, "url_prefix": PREFIX, "name": "Metrics and plots of stages"}]  # noqa: RUF012
