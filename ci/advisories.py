"""Look up what is known against the packages of the lock files; ends with status 1 where there is any."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from malaria.command import end_with
from malaria.errors import UserError

# The images' own are parts of the first.
LOCKS = (Path("requirements.lock"), Path("orchestration/airflow/requirements.lock"))

_AUDIT = (sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--progress-spinner", "off")


def main() -> int:
    found = []
    for lock in LOCKS:
        packages = looked_up(lock)
        found += [sentence for package in packages for sentence in known_against(package, lock)]
        print(f"{lock}: {len(packages)} packages looked up.")
    print(*found or ["Nothing is known against them."], sep="\n")
    return 1 if found else 0


def looked_up(lock: Path) -> list[dict[str, Any]]:
    """What pip-audit tells of each package of a lock file.

    Raises:
        UserError: it cannot ask.
    """
    said = subprocess.run([*_AUDIT, "-f", "json", "-r", str(lock)], capture_output=True, text=True)
    try:
        packages: list[dict[str, Any]] = json.loads(said.stdout)["dependencies"]
    except ValueError:
        lines = said.stderr.strip().splitlines() or ["no answer"]
        raise UserError(
            f"The advisories on {lock} cannot be looked up ({lines[-1][:200]}): run this where the network "
            "reaches the Python Package Index."
        ) from None
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    if unknown:
        raise UserError(
            f"{len(unknown)} of {len(packages)} packages of {lock} cannot be looked up "
            f"({', '.join(unknown[:3])}, ...): the network here does not reach the Python Package Index."
        )
    return packages


def known_against(package: dict[str, Any], lock: Path) -> list[str]:
    """A sentence for each advisory on a package."""
    return [
        f"{lock}: {package['name']} {package['version']}: {one['id']}, fixed in "
        f"{', '.join(one['fix_versions']) or 'no version yet'}"
        for one in package["vulns"]
    ]


if __name__ == "__main__":
    end_with(main)
