"""Open a pull request with newly resolved lock files, or bring the open one up to date."""

from pathlib import Path

from ci.github.open_pull_request import propose
from malaria import programs
from malaria.command import new_parser, run_and_exit


def main() -> None:
    parser = new_parser("ci.github.propose_locks", __doc__)
    parser.add_argument("folder", type=Path, help="folder with the lock files under their own paths")
    folder = parser.parse_args().folder
    locks = [Path(name) for name in programs.git("ls-files", "*requirements*.lock").splitlines()]
    text = "Newer versions that pyproject.toml admits. The checks show whether they change any result."
    print(propose("weekly-locks", "Newer versions in the lock files", folder, locks, text))


if __name__ == "__main__":
    run_and_exit(main)
