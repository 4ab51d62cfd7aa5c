"""Open a pull request with lock files that were resolved anew, or bring the open one up to date."""

import argparse
from pathlib import Path

from ci.github.open_pull_request import propose
from malaria import programs
from malaria.command import end_with


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ci.github.propose_locks", description=__doc__)
    parser.add_argument("folder", type=Path, help="with the lock files below their paths")
    folder = parser.parse_args().folder
    locks = [Path(name) for name in programs.git("ls-files", "*requirements*.lock").splitlines()]
    text = "Newer versions of what pyproject.toml admits. Other bytes of results are for the checks to show."
    print(propose("weekly-locks", "Newer versions in the lock files", folder, locks, text))


if __name__ == "__main__":
    end_with(main)
