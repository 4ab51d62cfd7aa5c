"""Scripts that call GitHub: their requests, and what they show of an untrusted report."""

import functools
import io
import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci import outputs
from ci.github import comment, commit_lock, event, open_pull_request, propose_locks, summary
from malaria.errors import UserError
from tests.support import gh_stand_in, project

HEAD = "a" * 40

SUMMARY = {
    **dict.fromkeys(("overridden", "sample"), False),
    **dict.fromkeys(("rules", "behind", "flipped", "parameters", "gained", "lost"), 0),
    "cells": 574,
    "patients": 8,
    "bytes": 421_000,
    "checks": [{"name": "AUC", "outcome": "failed"}, {"name": "size", "outcome": "passed"}],
    "figures": [
        {"name": "auc", "at": None, "base": 0.97, "branch": 0.95}
        | {"difference": -0.02, "low": -0.03, "high": -0.01}
    ],
    "stages": [{"name": "train", "how": "ran", "seconds": 214.2}],
}


def child(*files, parents=(HEAD,)):
    """A commit as GitHub's API describes it."""
    return {"parents": [{"sha": sha} for sha in parents], "files": [{"filename": name} for name in files]}


EVENT = {
    "workflow_run": {
        "id": 77,
        "event": "pull_request",
        "head_sha": HEAD,
        "head_branch": "stain/../&x=1",
        "head_repository": {"owner": {"login": "stranger"}},
        "conclusion": "failure",
        "html_url": "https://github.com/lab/cells/actions/runs/77",
        "pull_requests": [],
    }
}


@pytest.fixture
def github(tmp_path, monkeypatch):
    """A stand-in for `gh` on PATH, and GitHub's environment variables for a workflow_run."""
    stand = gh_stand_in.install(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{stand.folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("GITHUB_REPOSITORY", "lab/cells")
    monkeypatch.setattr("sys.argv", ["comment"])
    happen(tmp_path, monkeypatch, EVENT)
    stand.answer(r"pulls\?", [{"number": 12, "head": {"sha": HEAD}}])
    stand.answer("comments", "")
    stand.answer(r"artifacts\?name=report", {"artifacts": [{"id": 5, "size_in_bytes": 900}]})
    stand.answer("pulls/12/files", [{"filename": "params.yaml"}])
    answer(stand, SUMMARY)
    return stand


def answer(stand, content):
    """Make the run's artifact hold this summary."""
    stand.answer_bytes("artifacts/5/zip", zipped({"summary.json": json.dumps(content).encode()}))


def happen(tmp_path, monkeypatch, what):
    (tmp_path / "event.json").write_text(json.dumps(what))
    monkeypatch.setenv("GITHUB_EVENT_PATH", str(tmp_path / "event.json"))


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def written(stand) -> tuple[str, str]:
    """The `gh` arguments that sent the comment, and its text."""
    where, body = stand.asked[-1]
    return where, json.loads(body)["body"]


def test_the_report_becomes_a_comment_on_the_pull_request_that_github_names(github):
    comment.main()
    where, body = written(github)
    assert where == "api --method POST repos/lab/cells/issues/12/comments --input -"
    assert body.startswith(comment.MARK)
    assert "Retrained at aaaaaaaa: the check fails." in body
    assert "## The gate fails: AUC." in body
    # The branch's name is untrusted, so it is escaped in the URL.
    assert "head=stranger%3Astain%2F..%2F%26x%3D1" in github.asked[0][0]


def test_the_number_in_the_artifact_does_not_matter(github):
    content = json.dumps(SUMMARY).encode()
    github.answer_bytes(
        "artifacts/5/zip", zipped({"summary.json": content, "pr_number": b"1", "event.json": b"{}"})
    )
    comment.main()
    assert "issues/12/" in written(github)[0]


def test_its_own_comment_is_updated_in_place_and_another_s_is_not(github):
    theirs = json.dumps([8, "stranger", comment.MARK])
    github.answer("comments", f"{theirs}\n{json.dumps([9, 'github-actions[bot]', comment.MARK])}\n")
    github.answer("issues/comments/9", "{}")
    comment.main()
    assert written(github)[0] == "api --method PATCH repos/lab/cells/issues/comments/9 --input -"
    github.answer("comments", theirs + "\n")
    comment.main()
    assert written(github)[0].startswith("api --method POST")


def test_a_stale_run_and_one_without_a_pull_request_leave_no_comment(github, tmp_path, monkeypatch):
    github.answer(r"pulls\?", [])
    comment.main()
    happen(tmp_path, monkeypatch, {"workflow_run": {**EVENT["workflow_run"], "event": "push"}})
    comment.main()
    assert not any("--method" in arguments for arguments, _ in github.asked)


@pytest.mark.parametrize(
    "content",
    [
        b"no zip",
        zipped({"other.md": b"x"}),
        zipped({"summary.json": b"{}"})[:-30],
        zipped({"../summary.json": b"{}"}),
        zipped({"summary.json": b"{}" * 9}).replace(b"\xab\xae", b"\xff\xff", 1),
    ],
    ids=["no zip", "another file", "cut short", "a path upwards", "packed wrongly"],
)
def test_an_artifact_that_cannot_be_read_is_said_to_be_none(github, content):
    github.answer_bytes("artifacts/5/zip", content)
    comment.main()
    assert "It left no summary that can be read" in written(github)[1]


def test_an_artifact_that_is_too_large_is_not_even_fetched(github):
    github.answer(r"artifacts\?name=report", {"artifacts": [{"id": 5, "size_in_bytes": 10**9}]})
    comment.main()
    assert "It left no summary that can be read" in written(github)[1]
    assert not any("artifacts/5/zip" in arguments for arguments, _ in github.asked)


def test_an_artifact_that_is_larger_than_github_says_is_not_read(github, monkeypatch):
    monkeypatch.setattr(comment, "MAX_ZIPPED", 1000)
    # A zip may follow other bytes, so this one could be read.
    github.answer_bytes(
        "artifacts/5/zip", b"\0" * 2000 + zipped({"summary.json": json.dumps(SUMMARY).encode()})
    )
    comment.main()
    assert "It left no summary that can be read" in written(github)[1]


def test_a_commit_that_is_no_hash_does_not_reach_the_comment(github, tmp_path, monkeypatch):
    odd = "**see**" + "a" * 33
    happen(tmp_path, monkeypatch, {"workflow_run": {**EVENT["workflow_run"], "head_sha": odd}})
    github.answer(r"pulls\?", [{"number": 12, "head": {"sha": odd}}])
    comment.main()
    assert "Retrained at an odd commit" in written(github)[1]


def test_a_summary_that_unpacks_to_gigabytes_is_not_read_to_its_end(github):
    github.answer_bytes("artifacts/5/zip", zipped({"summary.json": b" " * 100_000_000}))
    comment.main()
    assert "It left no summary that can be read" in written(github)[1]


def test_a_report_stands_where_the_branch_only_got_its_lock_back(github):
    github.answer(r"pulls\?", [{"number": 12, "head": {"sha": "b" * 40}}])
    github.answer(f"commits/{'b' * 40}", child("dvc.lock", "reports/summary.json"))
    comment.main()
    assert "| train | ran | 214 |" in written(github)[1]


@pytest.mark.parametrize(
    "commit",
    [
        child("dvc.lock", "stages/train.py"),
        child("dvc.lock", parents=["c" * 40]),
        child("dvc.lock", parents=[HEAD, "c" * 40]),
    ],
    ids=["other files", "another parent", "a merge"],
)
def test_a_branch_that_moved_on_otherwise_makes_a_report_stale(github, commit):
    github.answer(r"pulls\?", [{"number": 12, "head": {"sha": "b" * 40}}])
    github.answer(f"commits/{'b' * 40}", commit)
    comment.main()
    assert not any("--method" in arguments for arguments, _ in github.asked)


@pytest.mark.parametrize(
    "change",
    [
        {"checks": [{"name": "see _www.evil.com/login_ now", "outcome": "failed"}]},
        {"checks": [{"name": "AUC", "outcome": "<img src=x>"}]},
        {"stages": [{"name": "@maintainer", "how": "ran", "seconds": 1}]},
        {"stages": [{"name": "train", "how": "ran", "seconds": "1"}]},
        {"cells": "[x](https://evil.example)"},
        {"cells": float("nan")},
        {"cells": None},
        {"cells": 10**400},
        {"bytes": 10**15},
        {"figures": "auc"},
        {"checks": 3},
        {"note": "anything at all"},
    ],
)
def test_what_is_no_number_and_no_known_word_is_not_shown(github, change):
    answer(github, SUMMARY | change)
    comment.main()
    assert "It left no summary that can be read" in written(github)[1]


KEYS = st.sampled_from([*SUMMARY, "name", "outcome", "how"])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.sampled_from(sorted(summary.WORDS)),
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner),
)


@given(st.sampled_from(sorted(SUMMARY)), ANYTHING)
def test_whatever_is_handed_in_is_refused_or_shown_as_numbers_and_known_words(key, content):
    try:
        text = summary.markdown(summary.read(json.dumps(SUMMARY | {key: content}).encode()))
    except (ValueError, KeyError, TypeError, AttributeError):
        return
    known = " ".join([summary.markdown(SUMMARY), *summary.FIGURES.values(), *summary.WORDS, EXTRA, "e"])
    letters = r"[^\W\d_]+"
    assert set(re.findall(letters, text)) <= set(re.findall(letters, known))


# Further words of the template, for cases that SUMMARY does not cover.
EXTRA = """The gate passes. FAILS, overridden by a label. Both models were made on the synthetic sample: the
figures say nothing of real cells. The branch changes how models are judged (places): read that first. none
The base has commits that this branch lacks."""


def test_files_that_judge_are_named_whatever_the_run_says(github):
    github.answer("pulls/12/files", [{"filename": "ci/verdict.py"}, {"filename": "params.yaml"}])
    comment.main()
    assert "It changes 1 of the files that judge it" in written(github)[1]


def test_a_file_that_judged_under_its_former_name_is_named(github):
    renamed = {"filename": "docs/limits.md", "previous_filename": "ci/verdict.py"}
    github.answer("pulls/12/files", [renamed, {"filename": "params.yaml"}])
    comment.main()
    assert "It changes 1 of the files that judge it" in written(github)[1]


@pytest.mark.parametrize(
    "name",
    [
        *("argparse.py", "yaml/__init__.py", ".dvc/config", "malaria/cells/prepare.py"),
        "malaria/__init__.py",
        # Python takes each of these for malaria/programs.py.
        *("malaria/programs/__init__.py", "malaria/programs.abi3.so"),
        "malaria/__pycache__/programs.cpython-312.pyc",
    ],
)
def test_what_would_be_taken_for_a_module_that_judges_or_for_a_store_is_named_too(name):
    assert outputs.rule(name)
    assert outputs.rule("docs/ci.md") == outputs.rule("stages/train.py") == ""


PULL = {
    "pull_request": {
        "number": 12,
        "head": {"sha": HEAD, "ref": "stain", "repo": {"full_name": "lab/cells"}},
        "base": {"sha": "c" * 40, "repo": {"full_name": "lab/cells"}},
        "labels": [{"name": "gate-override"}],
    }
}


@pytest.fixture
def retrained(tmp_path, monkeypatch):
    """The folder of an artifact of `retrain`; the current folder is a checkout with another dvc.lock."""
    folder = tmp_path / "retrained"
    (tmp_path / "checkout").mkdir()
    monkeypatch.chdir(tmp_path / "checkout")
    Path("dvc.lock").write_text("stages: {}\n")
    project.run("git", "init", "-q", "-b", "stain", ".", cwd=Path())
    project.commit(Path(), "as it was")
    project.run("git", "clone", "-q", "--bare", ".", str(tmp_path / "origin"), cwd=Path())
    project.git("remote", "add", "origin", str(tmp_path / "origin"), cwd=Path())
    (folder / "reports").mkdir(parents=True)
    (folder / "dvc.lock").write_text("schema: '2.0'\n")
    (folder / "reports/summary.json").write_text("{}\n")
    said = {"mergeable": False, "passed": False, "headline": "The gate fails: AUC."}
    (folder / outputs.VERDICT.name).write_text(json.dumps(said))
    stages = [("split", "unchanged", None), ("train", "ran", 214.0), ("@all", "ran", 1.0)]
    keys = ("name", "how", "seconds")
    record = {"stages": [dict(zip(keys, stage, strict=True)) for stage in stages]}
    (folder / outputs.RUN.name).write_text(json.dumps(record))
    return folder


@pytest.fixture
def handing_back(github, retrained, tmp_path, monkeypatch):
    """`github` in a run for a pull request of this repository, about to hand back `retrained`."""
    happen(tmp_path, monkeypatch, PULL)
    monkeypatch.setattr("sys.argv", ["hand_back", str(retrained)])
    return github


def pushed(branch, what="%s"):
    """The last commit on GitHub's branch, in a format of `git log` (default: its subject)."""
    project.git("fetch", "-q", "origin", branch, cwd=Path())
    return project.git("log", "-1", f"--format={what}", "FETCH_HEAD", cwd=Path())


def test_the_lock_goes_back_as_one_commit_on_top_of_what_was_retrained(handing_back):
    judged = project.git("rev-parse", "HEAD", cwd=Path())
    handing_back.answer("statuses", "{}")
    commit_lock.main()
    assert pushed("stain", "%P") == judged
    assert pushed("stain", "%an") == "github-actions[bot]"
    assert pushed("stain", "%s%n%b") == (
        "Retrained: dvc.lock and figures\nStages: split unchanged 0.0, train ran 214.0"
    )
    assert pushed("stain", "%(trailers:key=Stages,valueonly)") == "split unchanged 0.0, train ran 214.0"
    changed = project.git("diff", "--name-only", judged, "FETCH_HEAD", cwd=Path()).split()
    assert changed == ["dvc.lock", "reports/summary.json"]
    assert project.git("show", "FETCH_HEAD:dvc.lock", cwd=Path()) == "schema: '2.0'"
    ((where, status),) = handing_back.asked
    assert where == f"api --method POST repos/lab/cells/statuses/{pushed('stain', '%H')} --input -"
    assert (json.loads(status)["state"], json.loads(status)["context"]) == ("failure", "gate")


def test_a_run_that_changed_nothing_puts_its_outcome_on_the_commit_that_it_judged(handing_back, retrained):
    shutil.copytree(retrained, Path(), dirs_exist_ok=True)
    project.commit(Path(), "handed back before")
    said = {"mergeable": True, "passed": False, "headline": "The gate FAILS (AUC), overridden"}
    (retrained / outputs.VERDICT.name).write_text(json.dumps(said))
    handing_back.answer("statuses", "{}")
    commit_lock.main()
    ((where, status),) = handing_back.asked
    assert where == f"api --method POST repos/lab/cells/statuses/{HEAD} --input -"
    assert (json.loads(status)["state"], json.loads(status)["context"]) == ("success", "gate")


@pytest.mark.parametrize("left", [None, '{"merge'])
def test_the_lock_goes_back_where_the_gate_broke_and_the_status_says_so(handing_back, retrained, left):
    verdict = retrained / outputs.VERDICT.name
    verdict.unlink() if left is None else verdict.write_text(left)
    handing_back.answer("statuses", "{}")
    commit_lock.main()
    ((where, status),) = handing_back.asked
    assert where == f"api --method POST repos/lab/cells/statuses/{pushed('stain', '%H')} --input -"
    assert json.loads(status)["state"] == "error"
    assert "did not run to its end" in json.loads(status)["description"]


def test_a_branch_that_moved_on_is_left_alone(handing_back):
    git = functools.partial(project.git, cwd=Path())
    git("commit", "-q", "--allow-empty", "-m", "a push in the meantime")
    git("push", "-q", "origin", "stain")
    git("reset", "-q", "--hard", "HEAD~1")
    with pytest.raises(UserError, match=r"GitHub refuses the commit to stain: .* failed to push"):
        commit_lock.main()
    assert pushed("stain") == "a push in the meantime"
    assert handing_back.asked == []


def test_an_empty_artifact_is_an_error_and_not_taken_for_no_change(handing_back, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr("sys.argv", ["hand_back", str(tmp_path / "empty")])
    with pytest.raises(UserError, match=r"empty holds no dvc\.lock: it is no artifact of this run"):
        commit_lock.main()
    assert handing_back.asked == []


def test_nothing_goes_back_to_a_fork(github, retrained, tmp_path, monkeypatch):
    fork = json.loads(json.dumps(PULL))
    fork["pull_request"]["head"]["repo"] = None
    happen(tmp_path, monkeypatch, fork)
    monkeypatch.setattr("sys.argv", ["hand_back", str(retrained)])
    with pytest.raises(UserError, match="nothing can be handed back"):
        commit_lock.main()
    assert github.asked == []


def test_the_event_tells_base_labels_and_whether_it_is_a_fork(tmp_path, monkeypatch):
    happen(tmp_path, monkeypatch, PULL)
    assert event.pull() == event.Pull("c" * 40, HEAD, "stain", False, ("gate-override",))
    monkeypatch.delenv("GITHUB_EVENT_PATH")
    assert event.pull() is None


@pytest.fixture
def proposal(github, retrained, tmp_path, monkeypatch):
    """`github`, and the two folders that `propose` takes, from a run whose gate passed."""
    (retrained / outputs.VERDICT.name).write_text(json.dumps({"mergeable": True, "headline": ""}))
    report = tmp_path / "report"
    report.mkdir()
    (report / "drift.md").write_text("### Data against HEAD")
    (report / "summary.json").write_text(json.dumps(SUMMARY))
    monkeypatch.setattr("sys.argv", ["propose", str(retrained), str(report)])
    github.answer("pr list", "[]")
    github.answer("pr create", "https://github.com/lab/cells/pull/13\n")
    github.answer("pr edit", "")
    return github


def test_a_first_proposal_makes_branch_commit_and_pull_request(proposal, capsys):
    head = project.git("rev-parse", "HEAD", cwd=Path())
    open_pull_request.main()
    assert pushed("weekly-retrain", "%P %s") == f"{head} The cells have changed: retrained"
    assert pushed("stain", "%H") == head
    said, body = proposal.asked[-1]
    assert said.startswith("pr create --repo lab/cells --head weekly-retrain --base stain ")
    assert body.startswith("### Data against HEAD\n\n## The gate fails: AUC.")
    assert "Opened https://github.com/lab/cells/pull/13" in capsys.readouterr().out


def test_the_next_proposal_takes_the_place_of_the_one_still_open(proposal):
    git = functools.partial(project.git, cwd=Path())
    head = git("rev-parse", "HEAD")
    git("commit", "-q", "--allow-empty", "-m", "last week's")
    git("push", "-q", "origin", "HEAD:weekly-retrain")
    git("reset", "-q", "--hard", head)
    proposal.answer("pr list", [{"number": 13}])
    open_pull_request.main()
    assert pushed("weekly-retrain", "%P %s") == f"{head} The cells have changed: retrained"
    said, body = proposal.asked[-1]
    assert said == "pr edit 13 --repo lab/cells --body-file -"
    assert body.startswith("### Data against HEAD")


def test_nothing_is_proposed_where_the_gate_fails(proposal, retrained):
    said = {"mergeable": False, "headline": "The gate fails: AUC."}
    (retrained / outputs.VERDICT.name).write_text(json.dumps(said))
    with pytest.raises(UserError, match=r"The gate fails: AUC\. No pull request is opened"):
        open_pull_request.main()
    assert proposal.asked == []


def test_newer_locks_are_proposed_and_the_same_are_not(proposal, tmp_path, monkeypatch, capsys):
    folder, locks = tmp_path / "locks", ("requirements.lock", "orchestration/airflow/requirements.lock")
    for lock in locks:
        for copy in (Path(lock), folder / lock):
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text("numpy==8\n")
    head = project.commit(Path(), "locks")
    monkeypatch.setattr("sys.argv", ["propose", str(folder)])
    propose_locks.main()
    assert proposal.asked == []
    (folder / locks[1]).write_text("numpy==9\n")
    propose_locks.main()
    assert pushed("weekly-locks", "%P") == head
    assert project.git("diff", "--name-only", head, "FETCH_HEAD", cwd=Path()) == locks[1]
    assert proposal.asked[-1][0].startswith("pr create --repo lab/cells --head weekly-locks --base ")
    assert "Opened https://github.com/lab/cells/pull/13" in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, "half of it {"])
def test_nothing_is_proposed_without_a_verdict(proposal, retrained, content):
    verdict = retrained / "verdict.json"
    verdict.unlink() if content is None else verdict.write_text(content)
    with pytest.raises(UserError, match=r"The gate did not run to its end: .* No pull request is opened"):
        open_pull_request.main()
    assert proposal.asked == []
