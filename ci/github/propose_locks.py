"""Open a pull request with lock files that were resolved anew, or bring the open one up to date."""

import argparse
from pathlib import Path

from ci.github.open_pull_request import propose
from malaria.command import end_with

LOCKS = tuple(
    Path(name)
    for name in (
        "requirements.lock",
        "requirements-app.lock",
        "requirements-engine.lock",
        "requirements-train.lock",
        "orchestration/airflow/requirements.lock",
    )
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m ci.github.propose_locks", description=__doc__)
    parser.add_argument("folder", type=Path, help="with the lock files below their paths")
    folder = parser.parse_args().folder
    if all((folder / lock).read_bytes() == lock.read_bytes() for lock in LOCKS):
        print("Nothing newer is to be had: no pull request is opened.")
        return 0
    text = "Newer versions of what pyproject.toml admits. Other bytes of results are for the checks to show."
    print(propose("weekly-locks", "Newer versions in the lock files", folder, LOCKS, text))
    return 0


if __name__ == "__main__":
    end_with(main)
