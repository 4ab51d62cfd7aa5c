"""Airflow plugin: a page for each task, with its stage's metrics and plots at the end of the task."""

from pathlib import Path
from typing import Any
from uuid import UUID

import fastapi
from airflow.api_fastapi.core_api.security import get_user
from airflow.configuration import AIRFLOW_HOME
from airflow.plugins_manager import AirflowPlugin
from airflow.sdk import BaseOperatorLink
from fastapi.responses import HTMLResponse

PREFIX = "/stage-figures"
# `python -m orchestration.run_stage` writes one file for each task instance, named by its id.
FIGURES = Path(AIRFLOW_HOME, "stage-figures")

site = fastapi.FastAPI(openapi_url=None, dependencies=[fastapi.Depends(get_user)])


@site.get("/{task_instance}")
def page(task_instance: UUID) -> HTMLResponse:
    """The page that the task wrote; it loads nothing from elsewhere."""
    file = FIGURES / f"{task_instance}.html"
    if not file.is_file():
        return HTMLResponse("The stage has not finished in this run. Its log says why.")
    return HTMLResponse(file.read_text(encoding="utf-8"))


class FiguresLink(BaseOperatorLink):  # type: ignore[misc] # Airflow is not in the environment mypy sees
    """The button on a task instance's page that opens the figures."""

    name = "Metrics and plots"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:  # noqa: ARG002 - as Airflow calls it
        """The page's path. `ti_key`: the task instance itself, since Airflow calls this as the task ends."""
        return f"{PREFIX}/{ti_key.id}"


class StageFigures(AirflowPlugin):  # type: ignore[misc] # as above
    """Register the page with Airflow."""

    name = "stage_figures"
    fastapi_apps = [{"app": site, "url_prefix": PREFIX, "name": "Metrics and plots of stages"}]  # noqa: RUF012
