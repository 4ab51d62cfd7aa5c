"""Pull and push results on GitHub's runners: from a store if the environment names one, else from a folder.

pull  bring what the remote has of this revision and of earlier runs; later steps make what it lacks
push  send results and the run cache there; does nothing if the remote may only be read

Variables of the environment name the remote. It is set for this checkout alone, in .dvc/config.local:
  DVC_REMOTE_URL   a store to read and write, with its credentials in the environment too
  DVC_READ_URL     a store that everybody may read, for runs without secrets
  neither          the folder .dvc/remote, which the workflow keeps in GitHub's cache
"""

import os
from pathlib import Path

from malaria import programs
from malaria.command import new_parser, run_and_exit
from malaria.errors import UserError
from remote import pull, push, storage

FOLDER = Path(".dvc/remote")


def main() -> None:
    parser = new_parser("ci.storage", __doc__)
    parser.add_argument("what", choices=("pull", "push"))
    parser.add_argument("--store-needed", action="store_true", help="stop if no store is named")
    arguments = parser.parse_args()
    # GitHub sets a missing secret to an empty text, which must not count as a credential.
    for name in set(os.environ) - set(programs.environment()):
        del os.environ[name]
    writable, readable = os.environ.get("DVC_REMOTE_URL", ""), os.environ.get("DVC_READ_URL", "")
    url, read_only = writable or readable, bool(readable and not writable)
    if arguments.store_needed and not url:
        raise UserError(
            "No store is named, and a release needs one: set the secret DVC_REMOTE_URL or "
            "the variable DVC_READ_URL (docs/ci.md), and `make push` the tagged commit's results there."
        )
    if arguments.what == "push" and read_only:
        print("The remote may only be read: nothing is pushed.")
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    url = url or str(FOLDER.resolve())
    # verify: DVC checks the hash of each file that comes from the remote.
    storage.use("ci", url=url, verify=True)
    print(f"The remote is {url}{', which is only read' if read_only else ''}.")
    if arguments.what == "push":
        push.push()
        return
    missing = pull.pull(run_cache=not url.startswith(("http://", "https://")))
    print(f"The remote lacks {', '.join(missing)}: made anew." if missing else "It has every result.")


if __name__ == "__main__":
    run_and_exit(main)
