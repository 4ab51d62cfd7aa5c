"""Fetch the cells once more, whatever dvc.lock says, and do with them all that comes before training.

Tells whether they are others than those in use; `python -m ci.drift` says in what.
"""

import argparse

from ci import commands, outputs, revisions
from ci.github import event
from malaria.command import end_with

# Whether other cells came is told by what fetch wrote and the audit made of it, and by nothing else.
_STAGES = ("fetch", "audit")


def main() -> int:
    argparse.ArgumentParser(prog="python -m ci.fetch_again", description=__doc__).parse_args()
    again = ("--force", "--single-item", "--no-run-cache", "fetch")
    for arguments in (again, ("split", "pack")):
        for line in commands.dvc_lines("repro", *arguments):
            print(line, flush=True)
    changed = cells_changed()
    event.output("cells_changed", str(changed).lower())
    print("The cells are others than those in use." if changed else "The cells are those in use.")
    return 0


def cells_changed() -> bool:
    """Whether the cells that dvc.lock names here are others than those of HEAD."""
    now = revisions.stages_of(outputs.LOCK.read_text(encoding="utf-8"))
    before = revisions.stages_of(commands.git("show", f"HEAD:{outputs.LOCK}"))
    return any(now[name].get("outs") != before.get(name, {}).get("outs") for name in _STAGES)


if __name__ == "__main__":
    end_with(main)
