"""The page behind a task's link: the stage's metrics and plots, as they were when that task ended."""

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
# Written by `python -m orchestration.run_stage`, a file a task instance, named by its id.
FIGURES = Path(AIRFLOW_HOME, "stage-figures")

site = fastapi.FastAPI(openapi_url=None, dependencies=[fastapi.Depends(get_user)])


@site.get("/{task_instance}")
def page(task_instance: UUID) -> HTMLResponse:
    """The page that the task wrote; nothing is fetched from anywhere."""
    file = FIGURES / f"{task_instance}.html"
    if not file.is_file():
        return HTMLResponse("The stage has not come to its end in this run. Its log says why.")
    return HTMLResponse(file.read_text(encoding="utf-8"))


class FiguresLink(BaseOperatorLink):  # type: ignore[misc] # Airflow is not in the environment mypy sees
    """The button on the page of a task instance."""

    name = "Metrics and plots"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:  # noqa: ARG002 - as Airflow calls it
        """The page of this task instance: at the end of a task, `ti_key` is the task instance itself."""
        return f"{PREFIX}/{ti_key.id}"


class StageFigures(AirflowPlugin):  # type: ignore[misc] # as above
    """Tells Airflow of the page."""

    name = "stage_figures"
    fastapi_apps = [{"app": site, "url_prefix": PREFIX, "name": "Metrics and plots of stages"}]  # noqa: RUF012
