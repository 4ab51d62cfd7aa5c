"""Start Airflow on this machine with the pipeline's DAG: `make airflow`.

Runs in Airflow's own environment. Web server, scheduler and DAG processor are Airflow's `standalone`, for
one person on one machine; they listen only on 127.0.0.1, unless --host names another address.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
GRACE = 45  # s that a component may take to end: less than stop_grace_period in compose.yaml
PASSWORD = "simple_auth_manager_passwords.json.generated"


def settings(home: Path, host: str = "127.0.0.1", port: int = 8080) -> dict[str, str]:
    """The environment variables that configure Airflow for this project.

    Args:
        home: where Airflow keeps its database, logs and password.
        host: address where the web server listens; Airflow's own tasks always reach it on 127.0.0.1.
    """
    address = f"http://127.0.0.1:{port}"
    binaries = Path(sys.executable).parent
    return {
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(HERE / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(HERE / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "2",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
        "AIRFLOW__API__HOST": host,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": address,
        "AIRFLOW__API__WORKERS": "1",
    }


def kill_session(session: int) -> None:
    """End all processes of a session, if it still exists."""
    with suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--home", type=Path, default=PROJECT / ".airflow", help="Airflow's files (.airflow)")
    parser.add_argument("--host", default="127.0.0.1", help="address of the web page (%(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="port of the web page (%(default)s)")
    parser.add_argument("--schedule", help="a cron expression, or @weekly and the like (default: by hand)")
    arguments = parser.parse_args()
    home = arguments.home.resolve()
    # Only for this user: it contains the password and the session keys.
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Airflow reads its configuration when it is imported.
    os.environ |= settings(home, arguments.host, arguments.port)
    # Airflow does not catch up runs that were due before now.
    os.environ["MALARIA_START"] = datetime.now(UTC).isoformat()
    if arguments.schedule is not None:
        os.environ["MALARIA_SCHEDULE"] = arguments.schedule
    from airflow.__main__ import main as airflow
    from airflow.cli.commands import standalone_command

    class Component(standalone_command.SubCommand):  # type: ignore[misc] # mypy does not see Airflow
        """One component, without the log servers for other machines, which listen on every address.

        The scheduler starts after the API server answers, because tasks that cannot reach it fail. Each
        component has its own session, which Ctrl-C does not reach: at a second signal the scheduler hangs.
        """

        def __init__(self, parent: Any, name: str, command: list[str], env: dict[str, str]) -> None:
            options = ["--skip-serve-logs"] if name in ("scheduler", "triggerer") else []
            super().__init__(parent, name, [*command, *options], env)
            self.stopped = threading.Event()

        def run(self) -> None:
            while self.name == "scheduler" and not self.parent.port_open(arguments.port):
                if self.stopped.wait(0.5):
                    return
            argv = ["airflow", *self.command]
            self.process = subprocess.Popen(
                argv, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
            )
            assert self.process.stdout is not None
            for line in self.process.stdout:
                self.parent.output_queue.append((self.name, line))

        def stop(self) -> None:
            self.stopped.set()
            super().stop()
            if self.process is not None:
                # On a busy machine the scheduler and its workers may wait for each other without end.
                timer = threading.Timer(GRACE, kill_session, [self.process.pid])
                timer.daemon = True
                timer.start()

    standalone_command.SubCommand = Component
    # Airflow ends its components only on Ctrl-C (SIGINT), which a shell's background job ignores.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    address = f"http://127.0.0.1:{arguments.port}/"
    print(f"Open {address} in a browser as admin, password in {home}/{PASSWORD}", flush=True)
    sys.argv = ["airflow", "standalone"]
    airflow()


if __name__ == "__main__":
    main()
