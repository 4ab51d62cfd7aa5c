"""Bring the results of a `retrain` run into another checkout, through the artifact of that run.

pack  put dvc.lock, figures and results into reports/ci/retrained/, for the artifact `retrained`
take  bring a run's artifact into this checkout, without training: what git keeps goes into the work tree, for
      you to look at and commit; results go into DVC's cache, every hash checked, and are checked out
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ci import outputs, revisions
from ci.github.gh import gh
from malaria import programs
from malaria.command import new_parser, run_and_exit
from malaria.errors import UserError

ARTIFACT = "retrained"
FOLDER = outputs.RETRAINED
STORE = "store"

# Without the cells, because a reader of the artifact has them, or fetches and packs them.
STAGES = ("audit", "split", "train", "evaluate", "export", "external")


def main() -> None:
    parser = new_parser("ci.github.artifact", __doc__)
    actions = parser.add_subparsers(dest="what", required=True)
    actions.add_parser("pack")
    actions.add_parser("take").add_argument("run", type=int, help="the number that the run's address ends in")
    arguments = parser.parse_args()
    if arguments.what == "pack":
        pack()
        print(f"{FOLDER} holds what the run made.")
        return
    with tempfile.TemporaryDirectory() as temporary:
        gh("run", "download", str(arguments.run), "--name", ARTIFACT, "--dir", temporary)
        take(Path(temporary))
    print("Taken over. Look at `git diff`, then commit dvc.lock and reports/.")


def pack() -> None:
    """Replace `FOLDER` by one with dvc.lock, figures and results."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    for path in (*outputs.TRACKED, outputs.VERDICT, outputs.RUN):
        if path.is_file():
            # Files that git tracks lie under their own paths, the others at the top.
            target = FOLDER / (path if path in outputs.TRACKED else path.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    with _remote(FOLDER / STORE) as name:
        programs.dvc("push", "--remote", name, *_stages())


def take(folder: Path) -> None:
    """Bring what `pack` put into `folder` into this checkout.

    Raises:
        UserError: dvc.lock or figures have uncommitted changes here; the folder is no such artifact.
    """
    tracked = [path for path in outputs.TRACKED if (folder / path).is_file()]
    if not tracked or not (folder / STORE).is_dir():
        raise UserError(f"{folder} is no artifact of retrain: name the run of a pull request.")
    if programs.git("status", "--porcelain", "--untracked-files=no", "--", *map(str, tracked)):
        raise UserError("dvc.lock or reports/ have changes that are not committed: commit or drop them.")
    for path in tracked:
        shutil.copyfile(folder / path, path)
    with _remote(folder / STORE) as name:
        programs.dvc("fetch", "--remote", name, *_stages())
    programs.dvc("checkout", "--allow-missing", "--force", "--quiet", *_stages())


def _stages() -> list[str]:
    """Those of `STAGES` that the pipeline here has."""
    return [name for name in revisions.lock_of() if name in STAGES]


@contextmanager
def _remote(folder: Path) -> Iterator[str]:
    """Make `folder` a DVC remote while the block runs; yield the remote's name."""
    name = "handover"
    folder.mkdir(parents=True, exist_ok=True)
    programs.dvc("remote", "add", "--local", "--force", name, str(folder.resolve()))
    try:
        # The run of a fork may have filled it: DVC must check the hash of each object.
        programs.dvc("remote", "modify", "--local", name, "verify", "true")
        yield name
    finally:
        programs.dvc("remote", "remove", "--local", name)


if __name__ == "__main__":
    run_and_exit(main)
