"""What is asked of GitHub, and what of a stranger's report reaches a comment."""

import base64
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
from markdown_it import MarkdownIt

from ci import outputs
from ci.github import comment, commit_lock, event, open_pull_request, publish
from ci.github.sanitise import MOST, sanitise
from malaria.errors import UserError
from tests.support import gh_stand_in, project

HEAD = "a" * 40
RENDERED = MarkdownIt("gfm-like", {"html": True, "linkify": False})

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
    """A `gh` on PATH, and GitHub's variables for a workflow_run."""
    stand = gh_stand_in.install(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{stand.folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("GITHUB_REPOSITORY", "lab/cells")
    monkeypatch.setattr("sys.argv", ["comment"])
    happen(tmp_path, monkeypatch, EVENT)
    stand.answer(r"pulls\?", [{"number": 12, "head": {"sha": HEAD}}])
    stand.answer("comments", "")
    stand.answer(r"artifacts\?name=report", {"artifacts": [{"id": 5, "size_in_bytes": 900}]})
    stand.answer_bytes("artifacts/5/zip", zipped({"report.md": b"## The gate fails: AUC.\n"}))
    return stand


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
    """Where the comment went, and its text."""
    where, body = stand.asked[-1]
    return where, json.loads(body)["body"]


def test_the_report_becomes_a_comment_on_the_pull_request_that_github_names(github):
    assert comment.main() == 0
    where, body = written(github)
    assert where == "api --method POST repos/lab/cells/issues/12/comments --input -"
    assert body.startswith(comment.MARK)
    assert "Retrained at aaaaaaaa: the check fails." in body
    assert "## The gate fails: AUC." in body
    # The branch's name is a stranger's: it goes into the address as one value.
    assert "head=stranger%3Astain%2F..%2F%26x%3D1" in github.asked[0][0]


def test_the_number_in_the_artifact_does_not_matter(github):
    github.answer_bytes(
        "artifacts/5/zip", zipped({"report.md": b"hi", "pr_number": b"1", "event.json": b"{}"})
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
    github.answer(r"pulls\?", [{"number": 12, "head": {"sha": "b" * 40}}])
    assert comment.main() == 0
    happen(tmp_path, monkeypatch, {"workflow_run": {**EVENT["workflow_run"], "event": "push"}})
    assert comment.main() == 0
    assert not any("--method" in arguments for arguments, _ in github.asked)


@pytest.mark.parametrize(
    "content",
    [
        b"no zip",
        zipped({"other.md": b"x"}),
        zipped({"report.md": b"x"})[:-30],
        zipped({"../report.md": b"x"}),
    ],
    ids=["no zip", "another file", "cut short", "a path upwards"],
)
def test_an_artifact_that_cannot_be_read_is_said_to_be_none(github, content):
    github.answer_bytes("artifacts/5/zip", content)
    comment.main()
    assert "It left no report that can be read" in written(github)[1]


def test_an_artifact_that_is_too_large_is_not_even_fetched(github):
    github.answer(r"artifacts\?name=report", {"artifacts": [{"id": 5, "size_in_bytes": 10**9}]})
    comment.main()
    assert "It left no report that can be read" in written(github)[1]
    assert not any("artifacts/5/zip" in arguments for arguments, _ in github.asked)


def test_a_report_that_unpacks_to_gigabytes_is_cut(github):
    github.answer_bytes("artifacts/5/zip", zipped({"report.md": b"word " * 20_000_000}))
    comment.main()
    body = written(github)[1]
    assert len(body) < 65_000
    assert "it was cut here" in body


def prose(html: str) -> str:
    """The text that GitHub looks for names and addresses in: what is not code."""
    return re.sub(r"<[^>]*>", "", re.sub(r"<code[^>]*>.*?</code>", "", html, flags=re.DOTALL))


HOSTILE = """# Approved by @maintainer, fixes #1 and lab/cells#2, GH-3
<img src=https://evil.example/x.png> <script>alert(1)</script> <!-- hidden
![pixel](https://evil.example/p.png) [click](javascript:alert(1)) [ref][1] \\[x](https://evil.example)
[1]: https://evil.example
www.evil.example https://evil.example <https://evil.example> me@evil.example $\\href{https://evil.example}{x}$
| `a | <img src=x>` | ``b`` | ` | <b>
`@maintainer` `<i>` `[x](https://evil.example)` \\`<u>\\`
> ```html
> <s>
~~~
<em>
~~~
```mermaid
graph TD; a-->b; click a "https://evil.example"
```
```html
</code></pre><script>
  ```
<h1>
````
```
never closed <details>
"""


def test_a_hostile_report_can_name_nobody_link_nowhere_and_show_nothing():
    text = sanitise(HOSTILE.encode())
    html = RENDERED.render(text)
    assert not re.search(r"<(img|a|script|details|s|u|i|b|input)[ >]", html), html
    assert not re.search(r"@\w|://|#\d|\bwww\.|\bGH-\d", prose(html)), html
    assert "```mermaid" not in text
    assert "click a" in text


@given(st.text(alphabet="`~<>[]()!@#\\|*_-:/&$ \nax1", max_size=200))
def test_whatever_is_written_no_html_link_or_image_comes_of_it(text):
    html = RENDERED.render(sanitise(text.encode()))
    assert not re.search(
        r"<(?!/?(p|h[1-6]|ul|ol|li|em|strong|code|pre|blockquote|hr|br|table|t\w+)\b)", html
    ), html
    assert not re.search(r"@\w|://", prose(html)), html


def test_a_report_of_our_own_keeps_its_headings_tables_and_charts():
    chart = "\n".join(
        [
            "```mermaid",
            '%%{init: {"themeVariables": {"xyChart": {"plotColorPalette": "#8a8a8a, #c2410c"}}}}%%',
            "xychart-beta",
            '    title "val AUC: base grey, branch orange"',
            '    x-axis "1 - specificity" 0 --> 1',
            '    y-axis "val AUC" -0.5 --> 1.25',
            "    line [0.5, 1e-05, 0.75]",
            "```",
        ]
    )
    table = "| check | outcome |\n|---|---|\n| AUC | **failed** |\n| `a_b` | 1 |"
    ours = f"## The gate passes.\n\n{table}\n\n{chart}\n"
    assert sanitise(ours.encode()) == ours


def test_what_shows_other_than_it_is_goes_away():
    assert sanitise("a\u202eb\u200bc\x00d\ue000e\tf".encode()) == "abcdef"
    assert sanitise(b"\xff\xfe ok") == "\ufffd\ufffd ok"


def test_a_cut_report_leaves_no_fence_open():
    text = sanitise(("```text\n" + "line\n" * MOST).encode())
    assert sum(line.startswith("```") for line in text.splitlines()) % 2 == 0
    assert len(text) < 65_000


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
    """An artifact of `retrain`, and a checkout to hand it back to, the current folder, with another lock."""
    folder = tmp_path / "retrained"
    (tmp_path / "checkout").mkdir()
    monkeypatch.chdir(tmp_path / "checkout")
    Path("dvc.lock").write_text("stages: {}\n")
    project.run("git", "init", "-q", ".", cwd=Path())
    project.commit(Path(), "as it was")
    (folder / "reports").mkdir(parents=True)
    (folder / "dvc.lock").write_text("schema: '2.0'\n")
    (folder / "reports/summary.json").write_text("{}\n")
    said = {"mergeable": False, "passed": False, "headline": "The gate fails: AUC."}
    (folder / outputs.VERDICT.name).write_text(json.dumps(said))
    return folder


@pytest.fixture
def handing_back(github, retrained, tmp_path, monkeypatch):
    """`github` in a run of a pull request of this repository that hands `retrained` back."""
    happen(tmp_path, monkeypatch, PULL)
    monkeypatch.setattr("sys.argv", ["hand_back", str(retrained)])
    return github


def test_the_lock_goes_back_as_one_commit_on_top_of_what_was_retrained(handing_back):
    handing_back.answer("graphql", {"data": {"createCommitOnBranch": {"commit": {"oid": "d" * 40}}}})
    handing_back.answer("statuses", "{}")
    assert commit_lock.main() == 0
    (_, query), (where, status) = handing_back.asked
    wanted = json.loads(query)["variables"]["input"]
    assert wanted["expectedHeadOid"] == HEAD
    assert wanted["branch"] == {"repositoryNameWithOwner": "lab/cells", "branchName": "stain"}
    added = {file["path"]: base64.b64decode(file["contents"]) for file in wanted["fileChanges"]["additions"]}
    assert added == {"dvc.lock": b"schema: '2.0'\n", "reports/summary.json": b"{}\n"}
    assert where == f"api repos/lab/cells/statuses/{'d' * 40} --input -"
    assert (json.loads(status)["state"], json.loads(status)["context"]) == ("failure", "gate")


def test_a_run_that_changed_nothing_puts_its_outcome_on_the_commit_that_it_judged(handing_back, retrained):
    shutil.copytree(retrained, Path(), dirs_exist_ok=True)
    said = {"mergeable": True, "passed": False, "headline": "The gate FAILS (AUC), overridden"}
    (retrained / outputs.VERDICT.name).write_text(json.dumps(said))
    handing_back.answer("statuses", "{}")
    assert commit_lock.main() == 0
    ((where, status),) = handing_back.asked
    assert where == f"api repos/lab/cells/statuses/{HEAD} --input -"
    assert (json.loads(status)["state"], json.loads(status)["context"]) == ("success", "gate")


@pytest.mark.parametrize("left", [None, '{"merge'])
def test_the_lock_goes_back_where_the_gate_broke_and_the_status_says_so(handing_back, retrained, left):
    verdict = retrained / outputs.VERDICT.name
    verdict.unlink() if left is None else verdict.write_text(left)
    handing_back.answer("graphql", {"data": {"createCommitOnBranch": {"commit": {"oid": "d" * 40}}}})
    handing_back.answer("statuses", "{}")
    assert commit_lock.main() == 0
    _, (where, status) = handing_back.asked
    assert where == f"api repos/lab/cells/statuses/{'d' * 40} --input -"
    assert json.loads(status)["state"] == "error"
    assert "did not run to its end" in json.loads(status)["description"]


def test_a_branch_that_moved_on_is_left_alone(handing_back):
    handing_back.answer("graphql", {"errors": [{"message": "Expected branch to point to a"}]})
    with pytest.raises(UserError, match="GitHub refuses the commit to stain: Expected branch"):
        commit_lock.main()


def test_an_empty_artifact_is_nothing_that_the_branch_has_already(handing_back, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr("sys.argv", ["hand_back", str(tmp_path / "empty")])
    with pytest.raises(UserError, match=r"empty holds no dvc\.lock: it is no artifact of retrain"):
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
    assert event.pull() == event.Pull(12, "c" * 40, HEAD, "stain", False, ("gate-override",))
    monkeypatch.delenv("GITHUB_EVENT_PATH")
    assert event.pull() is None


@pytest.fixture
def proposal(github, retrained, tmp_path, monkeypatch):
    """The folders that `propose` takes, of a run whose gate passed."""
    (retrained / outputs.VERDICT.name).write_text(json.dumps({"passed": True, "headline": ""}))
    report = tmp_path / "report"
    report.mkdir()
    (report / "drift.md").write_text("### Data against HEAD")
    (report / "report.md").write_text("## The gate passes.")
    monkeypatch.setattr("sys.argv", ["propose", str(retrained), str(report)])
    github.answer("graphql", {"data": {"createCommitOnBranch": {"commit": {"oid": "d" * 40}}}})
    github.answer("refs", "[]")
    github.answer("pr list", "[]")
    github.answer("pr create", "https://github.com/lab/cells/pull/13\n")
    github.answer("pr edit", "")
    return github


def test_a_first_proposal_makes_branch_commit_and_pull_request(proposal, capsys):
    assert open_pull_request.main() == 0
    said = [arguments for arguments, _ in proposal.asked]
    made = [
        json.loads(body) for arguments, body in proposal.asked if arguments.endswith("git/refs --input -")
    ]
    head = project.git("rev-parse", "HEAD", cwd=Path())
    assert made == [
        {"ref": "refs/heads/weekly-retrain-next", "sha": head},
        {"ref": "refs/heads/weekly-retrain", "sha": "d" * 40},
    ]
    assert "api --method DELETE repos/lab/cells/git/refs/heads/weekly-retrain-next" in said
    assert said[-1].startswith("pr create --repo lab/cells --head weekly-retrain --base ")
    assert "Opened https://github.com/lab/cells/pull/13" in capsys.readouterr().out


def test_the_next_proposal_takes_the_place_of_the_one_still_open(proposal):
    refs = [{"ref": f"refs/heads/weekly-retrain{end}"} for end in ("", "-next")]
    proposal.answer("matching-refs", refs)
    proposal.answer("pr list", [{"number": 13}])
    assert open_pull_request.main() == 0
    said = [arguments for arguments, _ in proposal.asked]
    moved = [
        (arguments.split()[3].removeprefix("repos/lab/cells/git/refs/heads/"), json.loads(body)["sha"])
        for arguments, body in proposal.asked
        if "--method PATCH" in arguments
    ]
    # The open one's branch never stands at main's own commit, at which GitHub would close it.
    head = project.git("rev-parse", "HEAD", cwd=Path())
    assert moved == [("weekly-retrain-next", head), ("weekly-retrain", "d" * 40)]
    assert said[-1].startswith("pr edit 13 --repo lab/cells --body-file")


def test_nothing_is_proposed_where_the_gate_fails(proposal, retrained):
    said = {"passed": False, "headline": "The gate fails: AUC."}
    (retrained / outputs.VERDICT.name).write_text(json.dumps(said))
    with pytest.raises(UserError, match=r"The gate fails: AUC\. No pull request is opened"):
        open_pull_request.main()
    assert proposal.asked == []


@pytest.mark.parametrize("content", [None, "half of it {"])
def test_nothing_is_proposed_without_a_verdict(proposal, retrained, content):
    verdict = retrained / "verdict.json"
    verdict.unlink() if content is None else verdict.write_text(content)
    with pytest.raises(UserError, match=r"verdict.json is no verdict"):
        open_pull_request.main()
    assert proposal.asked == []


def test_a_release_has_the_tag_s_words_and_every_file(github, tmp_path, monkeypatch):
    folder = tmp_path / "release"
    folder.mkdir()
    (folder / "malaria-cells-1.2.0.zip").write_bytes(b"x")
    monkeypatch.setenv("GITHUB_REF_NAME", "malaria-cells@v1.2.0")
    monkeypatch.setattr("sys.argv", ["attach", str(folder)])
    github.answer("git/ref/tags/malaria-cells%40v1.2.0", {"object": {"type": "tag", "sha": "e" * 40}})
    github.answer("git/tags/" + "e" * 40, {"message": "AUC 0.98, was 0.97"})
    github.answer("release create", "https://github.com/lab/cells/releases/tag/x\n")
    assert publish.main() == 0
    assert github.asked[-1][0] == (
        "release create malaria-cells@v1.2.0 --repo lab/cells --title malaria-cells@v1.2.0 "
        f"--notes AUC 0.98, was 0.97 {folder / 'malaria-cells-1.2.0.zip'}"
    )
    github.answer("git/ref/tags", {"object": {"type": "commit", "sha": "e" * 40}})
    with pytest.raises(UserError, match="is no annotated tag"):
        publish.main()
