"""The weekly run's two ends: fetch the cells anew, and propose what was made of them.

fetch    run fetch, audit, split and pack again, and tell whether the cells are others than those in use
propose  open a pull request with the new dvc.lock and figures, or bring the open one up to date; does
         nothing where the cells are the same, or where the gate failed
"""

import argparse
import json
import tempfile
from pathlib import Path

from ci import commands, drift, event, gate, hand_back, rendering, revisions
from ci.verdict import Verdict
from malaria.command import end_with
from malaria.errors import UserError

BRANCH = "weekly-retrain"
TITLE = "The cells have changed: retrained"

# Whether other cells came is told by what the audit made of them, and by nothing else.
_FETCHED = ("fetch", "audit")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m ci.weekly",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=("fetch", "propose"))
    {"fetch": fetch, "propose": propose}[parser.parse_args().what]()
    return 0


def fetch() -> None:
    """Fetch again, whatever dvc.lock says, and do with the cells all that comes before training."""
    for line in commands.dvc_lines("repro", "--force", "--single-item", "--no-run-cache", "fetch"):
        print(line, flush=True)
    for line in commands.dvc_lines("repro", "split", "pack"):
        print(line, flush=True)
    changed = _cells_changed()
    event.output("cells_changed", str(changed).lower())
    print("The cells are others than those in use." if changed else "The cells are those in use.")


def propose() -> None:
    """Commit to `BRANCH`, on top of what is checked out, and open its pull request."""
    if not _cells_changed():
        print("The cells are those in use: nothing to propose.")
        return
    verdict = Verdict.model_validate_json(gate.VERDICT.read_bytes())
    if not verdict.passed:
        raise UserError(f"{verdict.headline} No pull request is opened.")
    repository, parent = event.repository(), commands.git("rev-parse", "HEAD")
    _branch_off(repository, parent)
    hand_back.commit_files(BRANCH, parent, Path(), TITLE)
    with tempfile.TemporaryDirectory() as temporary:
        body = Path(temporary, "body.md")
        body.write_text(
            f"{drift.REPORT.read_text(encoding='utf-8')}\n\n{rendering.MARKDOWN.read_text(encoding='utf-8')}",
            encoding="utf-8",
        )
        base = commands.git("rev-parse", "--abbrev-ref", "HEAD")
        where = ("--repo", repository, "--head", BRANCH)
        found = json.loads(commands.gh("pr", "list", *where, "--state", "open", "--json", "number"))
        if found:
            number = str(found[0]["number"])
            commands.gh("pr", "edit", number, "--repo", repository, "--body-file", str(body))
            print(f"Brought pull request {number} up to date.")
            return
        opened = commands.gh(
            "pr", "create", *where, "--base", base, "--title", TITLE, "--body-file", str(body)
        )
        print(f"Opened {opened.strip()}")


def _cells_changed() -> bool:
    """Whether the lock's outputs of fetch or audit are others than those of HEAD."""
    now = revisions.stages_of(revisions.LOCK.read_text(encoding="utf-8"))
    before = revisions.stages_of(commands.git("show", f"HEAD:{revisions.LOCK}"))
    return any(now[name].get("outs") != before.get(name, {}).get("outs") for name in _FETCHED)


def _branch_off(repository: str, parent: str) -> None:
    """Let `BRANCH` start from `parent`: its last proposal gives way to this one."""
    refs = json.loads(commands.gh("api", f"repos/{repository}/git/matching-refs/heads/{BRANCH}"))
    if any(ref["ref"] == f"refs/heads/{BRANCH}" for ref in refs):
        wanted = json.dumps({"sha": parent, "force": True})
        where = f"repos/{repository}/git/refs/heads/{BRANCH}"
        commands.gh("api", "--method", "PATCH", where, "--input", "-", stdin=wanted)
        return
    wanted = json.dumps({"ref": f"refs/heads/{BRANCH}", "sha": parent})
    commands.gh("api", f"repos/{repository}/git/refs", "--input", "-", stdin=wanted)


if __name__ == "__main__":
    end_with(main)
