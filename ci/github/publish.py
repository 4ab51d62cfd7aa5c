"""Publish a version tag as a release, with the files of a folder attached; notes are the tag's own words."""

import argparse
import json
import os
from pathlib import Path
from urllib.parse import quote

from ci import commands
from ci.github import event
from malaria.command import end_with
from malaria.errors import UserError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m ci.github.publish", description=__doc__)
    parser.add_argument("folder", type=Path, help="the artifact of `ci.released_bundle`")
    folder = parser.parse_args().folder
    attached = sorted(str(path) for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    if not attached:
        raise UserError(f"{folder} holds no file to attach: run `python -m ci.released_bundle` first.")
    tag = os.environ.get("GITHUB_REF_NAME", "")
    where = ("--repo", event.repository(), "--title", tag, "--notes", notes(tag))
    print(commands.gh("release", "create", tag, *where, *attached).strip())
    return 0


def notes(tag: str) -> str:
    """The message of an annotated tag, as GitHub has it: a checkout may know the tag's commit alone."""
    repository = event.repository()
    target = json.loads(commands.gh("api", f"repos/{repository}/git/ref/tags/{quote(tag)}"))["object"]
    if target["type"] != "tag":
        raise UserError(f"{tag} is no annotated tag: `make release` makes one that says what changed.")
    return str(json.loads(commands.gh("api", f"repos/{repository}/git/tags/{target['sha']}"))["message"])


if __name__ == "__main__":
    end_with(main)
