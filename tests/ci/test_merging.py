"""Merging two branches that both ran the pipeline, with the commands of docs/everyday.md."""

import os
import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.support.project import ROOT, change, git, run

pytestmark = pytest.mark.long

SOMEBODY = {
    **os.environ,
    **{f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}


@pytest.fixture
def both(finished, tmp_path) -> Path:
    """A repository on branch `mine`; branch `theirs` starts at the same commit, and both change dvc.lock."""
    clone = tmp_path / "clone"
    git("clone", "-q", str(finished), str(clone), cwd=finished)
    for made in ("dvc.lock", "reports/summary.json"):
        shutil.copy(finished / made, clone / made)
    run("dvc", "cache", "dir", "--local", str(finished / ".dvc/cache"), cwd=clone)
    run("dvc", "checkout", "-q", cwd=clone)
    git("add", "-A", cwd=clone)
    git("commit", "-qm", "results", cwd=clone)
    for branch, changes in (
        ("theirs", {"audit.max_quarantined": 0.5}),
        ("mine", {"split.tolerance": 0.19}),
    ):
        git("checkout", "-q", "-b", branch, "HEAD" if branch == "theirs" else "theirs~1", cwd=clone)
        run("dvc", "checkout", "-q", cwd=clone)
        change(clone, changes)
        run("dvc", "repro", cwd=clone)
        git("commit", "-qam", branch, cwd=clone)
    return clone


def documented() -> list[str]:
    """The commands of docs/everyday.md that merge and resolve a conflict in dvc.lock."""
    section = (ROOT / "docs/everyday.md").read_text().partition("## Two people who both retrain")[2]
    block = re.search(r"```sh\n(.*?)```", section, re.DOTALL)[1]
    return [line.partition("#")[0].strip() for line in block.splitlines() if line.partition("#")[0].strip()]


def test_the_documented_commands_end_a_conflict_in_dvc_lock_and_run_nothing_twice(both):
    merge, *settle = documented()
    assert merge == "git merge theirs"
    conflict = run(*merge.split(), cwd=both, ok=False, environment=SOMEBODY)
    assert conflict.returncode == 1
    assert "Merge conflict in dvc.lock" in conflict.stdout
    # DVC can read the file: it holds our version, complete.
    assert yaml.safe_load((both / "dvc.lock").read_text()) == yaml.safe_load(
        git("show", "mine:dvc.lock", cwd=both)
    )

    said = ""
    for command in settle:
        said += run("bash", "-c", command, cwd=both, environment=SOMEBODY).stdout
    assert "Stage 'audit' is cached - skipping run" in said
    assert "Running stage" not in said
    assert git("status", "--porcelain", cwd=both) == ""
    assert run("dvc", "status", cwd=both).stdout.strip() == "Data and pipelines are up to date."
    params = yaml.safe_load((both / "params.yaml").read_text())
    assert (params["audit"]["max_quarantined"], params["split"]["tolerance"]) == (0.5, 0.19)
    assert git("rev-list", "--merges", "--count", "HEAD", cwd=both) == "1"


def test_a_conflict_in_a_report_leaves_no_markers_in_it(tmp_path):
    shutil.copy(ROOT / ".gitattributes", tmp_path)
    file = tmp_path / "reports/summary.json"
    file.parent.mkdir()
    git("init", "-q", "-b", "mine", ".", cwd=tmp_path)

    def commit(content: str) -> None:
        file.write_text(content)
        git("add", "-A", cwd=tmp_path)
        git("commit", "-qm", content, cwd=tmp_path)

    commit('{"auc": 1}\n')
    git("checkout", "-q", "-b", "theirs", cwd=tmp_path)
    commit('{"auc": 2}\n')
    git("checkout", "-q", "mine", cwd=tmp_path)
    commit('{"auc": 3}\n')
    merged = run("git", "merge", "theirs", cwd=tmp_path, ok=False, environment=SOMEBODY)
    assert "Merge conflict in reports/summary.json" in merged.stdout
    assert file.read_text() == '{"auc": 3}\n'
