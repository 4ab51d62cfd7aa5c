"""Take the picture of Airflow's graph for docs/airflow.md; `make airflow` must run, and a run have ended.

Logs in as a user does, opens the newest run's graph in Debian's Chromium and writes docs/airflow.png.
"""

import json
from pathlib import Path
from urllib.parse import quote

from docs import screenshots
from malaria.command import new_parser, run_and_exit
from malaria.errors import UserError

PICTURE = Path("docs/airflow.png")
DAG = "dags/malaria_cells"


def main() -> None:
    parser = new_parser("docs.airflow_screenshot", __doc__)
    parser.add_argument("--home", type=Path, default=Path(".airflow"), help="Airflow's files (.airflow)")
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="Airflow's page (%(default)s)")
    arguments = parser.parse_args()
    password_file = arguments.home / "simple_auth_manager_passwords.json.generated"
    if not password_file.is_file():
        raise UserError(f"{password_file} is missing: run `make airflow`, and leave it running.")
    passwords = json.loads(password_file.read_text())
    with screenshots.chromium() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 760})
        page.set_default_timeout(120_000)
        page.goto(arguments.url)
        page.fill("input[name=username]", "admin")
        page.fill("input[name=password]", passwords["admin"])
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(lambda url: "login" not in url)
        page.goto(f"{arguments.url}/{DAG}")
        page.get_by_role("button", name="Show Graph").click()
        newest = page.request.get(f"{arguments.url}/api/v2/{DAG}/dagRuns?order_by=-start_date&limit=1").json()
        page.goto(f"{arguments.url}/{DAG}/runs/{quote(newest['dag_runs'][0]['dag_run_id'])}")
        page.wait_for_selector(".react-flow__node")
        # Wait until the graph is laid out and centred.
        page.wait_for_timeout(5000)
        page.screenshot(path=PICTURE)
    print(f"{PICTURE} is written")


if __name__ == "__main__":
    run_and_exit(main)
