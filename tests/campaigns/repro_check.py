"""Show that the same revision gives the same bytes: run the pipeline in two fresh clones and compare.

Prints one line for each output of dvc.lock. The exit status is 1 if a hash differs.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import yaml

from malaria import files, programs
from malaria.command import new_parser, run_and_exit


def main() -> int:
    parser = new_parser("tests.campaigns.repro_check", __doc__)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="set a parameter")
    changes = parser.parse_args().set
    with tempfile.TemporaryDirectory() as folder:
        first, second = (_run_in_clone(Path(folder, name), changes) for name in ("first", "second"))
    same = first.items() & second.items()
    for path, digest in sorted(first.items()):
        print(f"{'same' if (path, digest) in same else 'DIFFERENT':10} {digest} {path}")
    print(f"{len(same)} of {len(first)} outputs are the same to the byte")
    return 0 if same == first.items() else 1


def _run_in_clone(clone: Path, changes: list[str]) -> dict[str, str]:
    """Run the whole pipeline in a fresh clone of HEAD; return the hash of each output, from dvc.lock."""
    programs.git("clone", "-q", ".", str(clone))
    arguments = [part for change in changes for part in ("-S", change)]
    command = ["exp", "run", "--force", *arguments] if arguments else ["repro", "--force"]
    for line in programs.lines([*programs.DVC, *command], cwd=clone):
        print(line, flush=True)
    return recorded_hashes(clone)


def recorded_hashes(repository: Path) -> dict[str, str]:
    """DVC's hash of each output in dvc.lock; empty if the file is missing or cut short."""
    try:
        content = yaml.safe_load((repository / "dvc.lock").read_text())
        stages = content["stages"].values()
        return {out["path"]: out["md5"] for stage in stages for out in stage.get("outs", ())}
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return {}


def hashes(repository: Path, outs: Iterable[str]) -> dict[str, str]:
    """SHA-256 by path of the files in `outs` that exist."""
    paths = (path for out in outs for path in (repository / out, *(repository / out).rglob("*")))
    return {str(path.relative_to(repository)): files.sha256(path) for path in paths if path.is_file()}


if __name__ == "__main__":
    run_and_exit(main)
