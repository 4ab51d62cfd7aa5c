"""Where results travel on GitHub's runners: an object store where a secret names one, else a folder.

pull  bring what the remote has of this revision and of earlier runs; what it lacks will be made
push  send results and the run cache there; does nothing where the remote may only be read

The environment names the remote; it is set for this checkout alone, in .dvc/config.local:
  DVC_REMOTE_URL   a store to read and write, with its credentials in the environment too
  DVC_READ_URL     a store that anybody may read, for runs without secrets
  neither          the folder .dvc/remote, which the workflow keeps in GitHub's cache
"""

import argparse
import os
from pathlib import Path

from ci import commands
from malaria.command import end_with
from malaria.errors import UserError

REMOTE = "ci"
FOLDER = Path(".dvc/remote")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m ci.storage",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=("pull", "push"))
    parser.add_argument("--store-needed", action="store_true", help="stop where no store is named")
    arguments = parser.parse_args()
    if arguments.store_needed and not _named():
        raise UserError(
            "No store is named, and a release is of results in one: set the secret DVC_REMOTE_URL or "
            "the variable DVC_READ_URL (docs/ci.md), and `make push` the tagged commit's results there."
        )
    url = use()
    pull(url) if arguments.what == "pull" else push()
    return 0


def use() -> str:
    """Make the remote of the environment the default one of this checkout; its URL."""
    url = _named()
    if not url:
        FOLDER.mkdir(parents=True, exist_ok=True)
        url = str(FOLDER.resolve())
    commands.dvc("remote", "add", "--local", "--default", "--force", REMOTE, url)
    # What comes from a remote is hashed before it is taken for what dvc.lock names.
    commands.dvc("remote", "modify", "--local", REMOTE, "verify", "true")
    kind = "the folder " if url == str(FOLDER.resolve()) else "read only, " if _read_only() else ""
    print(f"Results travel by way of {kind}{url}.")
    return url


def pull(url: str) -> None:
    """Bring what there is: results of this revision, and the run cache of earlier ones."""
    if Path(url).is_dir() and not any(Path(url).iterdir()):
        print("The remote is empty: everything will be made anew.")
        return
    # A store that is only read over HTTP cannot list its runs.
    run_cache = () if url.startswith(("http://", "https://")) else ("--run-cache",)
    print(commands.dvc("pull", *run_cache, "--allow-missing", "--force").strip())


def push() -> None:
    """Send what this checkout has."""
    if _read_only():
        print("The remote may only be read: nothing is pushed.")
        return
    print(commands.module("remote.push").strip())


def _named() -> str | None:
    return os.environ.get("DVC_REMOTE_URL") or os.environ.get("DVC_READ_URL")


def _read_only() -> bool:
    return bool(os.environ.get("DVC_READ_URL")) and not os.environ.get("DVC_REMOTE_URL")


if __name__ == "__main__":
    end_with(main)
