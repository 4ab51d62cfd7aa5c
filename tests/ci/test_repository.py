"""Report and gate on a repository with several revisions that the real `dvc repro` made."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from ci import outputs, revisions
from malaria import paths, tables
from tests.support.project import ROOT, change, commit, git, run

GATE = {"gate.min_cells": 20, "gate.max_ece": 1.0, "gate.rerun": [], "gate.auc_loss": 0.01}


@pytest.fixture(scope="module")
def history(finished, tmp_path_factory) -> Path:
    """A clone of the finished run with the branches that the tests compare; main is checked out.

    precision  export.precision changed, and `dvc repro` run
    better     the same model, had it predicted better
    data       60 cells more, fetched, audited, split and packed by `dvc repro`
    noisy      a split stage that never writes the same bytes twice
    """
    clone = tmp_path_factory.mktemp("history") / "clone"
    run("git", "clone", "-q", str(finished), str(clone), cwd=finished)
    # A cache of its own: a doctored result that is committed is a run that DVC's run cache offers to others.
    shutil.copytree(finished / ".dvc/cache", clone / ".dvc/cache")
    git("checkout", "-q", "-B", "main", cwd=clone)
    for path in outputs.KEPT:
        shutil.copy(finished / path, clone / path)
    change(clone, GATE)
    commit(clone, "main")
    run("dvc", "checkout", "-q", cwd=clone)

    branch(clone, "precision")
    change(clone, {"export.precision": "float16"})
    module(clone, "retrain")
    commit(clone, "half the space")
    (clone / outputs.RUN).rename(clone.parent / "run.json")

    branch(clone, "better")
    predict(clone, tables.read(clone / paths.PREDICTIONS, tables.PREDICTIONS), skill=4.0)
    run("dvc", "commit", "-f", "-q", "evaluate", "export", cwd=clone)
    commit(clone, "better")

    branch(clone, "data")
    change(clone, {"data.sample.cells": 300})
    run("dvc", "repro", "split", "pack", cwd=clone)
    splits = tables.read(clone / paths.SPLITS, tables.SPLITS)
    judged = splits[splits.split != tables.TRAIN].sort_values(["split", "path"], ignore_index=True)
    predict(clone, judged.assign(p_network=0.5), skill=4.0)
    run("dvc", "commit", "-f", "-q", "train", "evaluate", "export", cwd=clone)
    commit(clone, "more cells")

    branch(clone, "noisy")
    stage = clone / "stages/split.py"
    noise = '{**asdict(summary), "at": __import__("time").time()}'
    stage.write_text(stage.read_text().replace("asdict(summary)", noise))
    run("dvc", "repro", "split", cwd=clone)
    run("dvc", "commit", "-f", "-q", "export", cwd=clone)
    commit(clone, "a split that never is the same")
    switch(clone, "main")
    return clone


def module(repository: Path, name: str, *arguments: str, ok: bool = True, **environment: str):
    """Run `python -m ci.<name>` of the repository's own code."""
    given = {key: value for key, value in os.environ.items() if not key.startswith("GITHUB_")} | environment
    return run(sys.executable, "-m", f"ci.{name}", *arguments, cwd=repository, ok=ok, environment=given)


def branch(repository: Path, name: str) -> None:
    """Start a branch from main, with main's results in place."""
    switch(repository, "main")
    git("checkout", "-q", "-b", name, cwd=repository)


def switch(repository: Path, name: str) -> None:
    git("checkout", "-q", name, cwd=repository)
    run("dvc", "checkout", "-q", "--force", cwd=repository)


def predict(repository: Path, cells: pd.DataFrame, skill: float) -> None:
    """Write predictions of `cells` that mostly go the right way."""
    sign = np.where(cells.label == "Parasitized", 1, -1)
    p = 1 / (1 + np.exp(-(skill * sign + np.random.default_rng(1).normal(0, 1, len(cells)))))
    tables.write(cells.assign(p_parasitized=p), repository / paths.PREDICTIONS, tables.PREDICTIONS)


def found(repository: Path) -> dict:
    return json.loads((repository / outputs.COMPARISON).read_text())


def outcomes(repository: Path) -> dict[str, str]:
    checks = json.loads((repository / outputs.VERDICT).read_text())["checks"]
    return {check["name"]: check["outcome"] for check in checks}


def test_a_changed_parameter_reruns_its_stage_and_the_report_says_so(history):
    switch(history, "precision")
    (history / outputs.REPORTS).mkdir(parents=True, exist_ok=True)
    shutil.copy(history.parent / "run.json", history / outputs.RUN)
    done = module(history, "gate", "--base", "main")
    assert "The gate passes." in done.stdout
    said = found(history)
    assert [(one["key"], one["base"], one["branch"]) for one in said["changes"]] == [
        ("export.precision", "float32", "float16")
    ]
    assert {stage["name"] for stage in said["stages"] if stage["how"] == "ran"} == {"export"}
    assert next(stage["seconds"] for stage in said["stages"] if stage["name"] == "export") > 0
    assert said["branch"]["bundle_bytes"] < said["base"]["bundle_bytes"]
    assert said["figures"]["auc"]["difference"] == 0
    assert said["flips"] == []
    assert "| export | ran |" in (history / outputs.MARKDOWN).read_text()
    assert said["data"]["patients_gained"] == 0


def test_a_worse_model_ends_with_status_1_and_a_better_one_with_0(history):
    switch(history, "better")
    assert module(history, "gate", "--base", "main").returncode == 0
    assert found(history)["figures"]["auc"]["low"] > 0
    switch(history, "main")
    done = module(history, "gate", "--base", "better", ok=False)
    assert done.returncode == 1
    assert done.stderr.strip().startswith("The gate fails: AUC")
    assert outcomes(history)["AUC"] == "failed"
    assert 0 < len(found(history)["flips"]) == min(found(history)["flipped"], 10)


def test_an_override_passes_and_marks_the_run(history, tmp_path):
    switch(history, "main")
    summary = tmp_path / "summary.md"
    done = module(
        history, "gate", "--base", "better", "--label", "gate-override",
        GITHUB_STEP_SUMMARY=str(summary), GITHUB_ACTIONS="true",
    )  # fmt: skip
    assert "::warning::The gate FAILS (AUC" in done.stdout
    assert "overridden by the label `gate-override`" not in summary.read_text().splitlines()[0]
    assert "Somebody decided to override the gate" in summary.read_text()


def test_a_change_of_the_data_is_counted_cell_by_cell(history):
    switch(history, "data")
    module(history, "report", "--base", "main")
    before = tables.read(history / paths.CELLS, tables.CELLS)
    switch(history, "main")
    now, then = (set(before.sha256), set(tables.read(history / paths.CELLS, tables.CELLS).sha256))
    said = found(history)["data"]["classes"]
    assert sum(one["gained"] for one in said) == len(now - then) >= 60
    assert sum(one["lost"] for one in said) == len(then - now)
    text = (history / outputs.MARKDOWN).read_text()
    assert "No record of a run belongs to this dvc.lock" in text
    assert "| `data.sample.cells` | `240` | `300` |" in text


def test_fewer_common_cells_than_the_gate_asks_for_are_not_comparable(history):
    switch(history, "precision")
    # On the branch alone the limit has no force: the base's counts.
    change(history, {"gate.min_cells": 1000})
    try:
        module(history, "gate", "--base", "main")
        assert "`params.yaml: gate`" in (history / outputs.MARKDOWN).read_text()
    finally:
        git("checkout", "-q", "params.yaml", cwd=history)
    git("checkout", "-q", "-b", "strict", "main", cwd=history)
    change(history, {"gate.min_cells": 1000})
    commit(history, "strict")
    switch(history, "precision")
    done = module(history, "gate", "--base", "strict", ok=False)
    assert (done.returncode, outcomes(history)["comparable"]) == (1, "failed")
    assert "not comparable" in (history / outputs.MARKDOWN).read_text()


def test_a_branch_that_evaluates_otherwise_is_judged_as_the_base_evaluates(history):
    switch(history, "precision")
    module(history, "report", "--base", "main")
    before = found(history)
    branch(history, "coarse")
    change(history, {"evaluate.bins": 2, "evaluate.seed": 9})
    run("dvc", "commit", "-f", "-q", "evaluate", "export", cwd=history)
    commit(history, "two bins")
    module(history, "report", "--base", "main")
    said = found(history)
    assert said["base"]["test_ece"] == said["branch"]["test_ece"] == before["base"]["test_ece"]
    assert said["rules"] == ["params.yaml: evaluate"]


def test_what_the_base_changed_since_the_branch_left_it_is_not_the_branch_s_doing(history):
    git("checkout", "-q", "-b", "ahead", "main", cwd=history)
    (history / "ci/outputs.py").write_text((history / "ci/outputs.py").read_text() + "# more\n")
    change(history, {"gate.max_drift": 0.2})
    commit(history, "other rules")
    switch(history, "precision")
    module(history, "report", "--base", "ahead")
    assert (found(history)["behind"], found(history)["rules"]) == (1, [])
    (history / "ci/outputs.py").write_text((history / "ci/outputs.py").read_text() + "# mine\n")
    try:
        module(history, "report", "--base", "ahead")
        assert found(history)["rules"] == ["ci"]
    finally:
        git("checkout", "-q", "ci/outputs.py", cwd=history)


def test_a_stage_that_gives_other_bytes_when_run_again_fails_the_gate(history):
    switch(history, "main")
    git("checkout", "-q", "-b", "again", cwd=history)
    change(history, {"gate.rerun": ["split"]})
    commit(history, "run split again")
    done = module(history, "gate", "--base", "again")
    assert "the same 2 hashes" in done.stdout
    switch(history, "noisy")
    done = module(history, "gate", "--base", "again", ok=False)
    assert done.returncode == 1
    assert "run again, split made another reports/split.json" in done.stdout


def test_a_base_without_a_model_makes_a_first_revision(history):
    switch(history, "main")
    first = git("rev-list", "--max-parents=0", "HEAD", cwd=history)
    done = module(history, "gate", "--base", first)
    assert "a first revision" in done.stdout
    assert found(history)["base"] is None


def test_results_that_are_behind_the_parameters_are_not_reported(history):
    switch(history, "main")
    change(history, {"evaluate.bins": 10})
    try:
        done = module(history, "report", "--base", "better", ok=False)
        assert done.returncode == 1
        assert "not up to date (dvc status: evaluate, export): run `dvc repro`." in done.stderr
    finally:
        git("checkout", "-q", "params.yaml", cwd=history)


def test_an_unknown_base_is_named(history):
    done = module(history, "report", "--base", "mian", ok=False)
    assert done.stderr.startswith("error: git knows no revision mian")


def test_a_base_whose_results_are_gone_is_made_anew_on_demand(history):
    switch(history, "precision")
    lock = run("dvc", "cache", "dir", cwd=history).stdout.strip()
    md5 = next(
        out["md5"]
        for out in stages(git("show", "better:dvc.lock", cwd=history))["evaluate"]["outs"]
        if out["path"] == "reports/predictions.csv"
    )
    kept = Path(lock) / "files/md5" / md5[:2] / md5[2:]
    aside = kept.with_name("aside")
    kept.rename(aside)
    try:
        done = module(history, "report", "--base", "better", ok=False)
        assert "reports/predictions.csv of better is in neither DVC's cache nor its remote" in done.stderr
        module(history, "report", "--base", "better", "--rebuild")
        assert "made anew" in found(history)["base"]["note"]
        assert "made anew" in (history / outputs.MARKDOWN).read_text()
    finally:
        aside.rename(kept)


def test_a_fork_is_compared_on_the_sample_whatever_the_source(history, tmp_path):
    switch(history, "main")
    git("checkout", "-q", "-b", "real", cwd=history)
    change(history, {"data.source": "nlm"})
    real = commit(history, "the real set")
    variables = pull_of(real, "stranger/cells", tmp_path)
    try:
        module(history, "retrain", **variables)
        module(history, "report", **variables)
        said = found(history)
        assert said["sample"]
        assert said["base"]["source"] == said["branch"]["source"] == "sample"
        assert "a run for a fork has no secrets" in (history / outputs.MARKDOWN).read_text()
    finally:
        git("checkout", "-q", "--force", "main", cwd=history)


def test_what_is_run_again_starts_from_every_change_of_the_work_tree(tmp_path, monkeypatch):
    repository = tmp_path / "repository"
    repository.mkdir()
    for name in ("kept", "staged", "both", "dropped", "gone"):
        (repository / name).write_text("before\n")
    run("git", "init", "-q", ".", cwd=repository)
    run("dvc", "init", "-q", cwd=repository)
    commit(repository, "all")
    for name in ("staged", "both", "new"):
        (repository / name).write_text("staged\n")
        git("add", name, cwd=repository)
    (repository / "both").write_text("after\n")
    (repository / "untracked").write_text("after\n")
    git("rm", "-q", "dropped", cwd=repository)
    (repository / "gone").unlink()
    monkeypatch.chdir(repository)
    revisions.copy_of_work_tree(tmp_path / "copy")
    names = ("kept", "staged", "both", "new", "untracked", "dropped", "gone")
    copied = {name: tmp_path / "copy" / name for name in names}
    assert {name: file.read_text().strip() for name, file in copied.items() if file.exists()} == {
        "kept": "before", "staged": "staged", "both": "after", "new": "staged", "untracked": "after",
    }  # fmt: skip


def test_a_release_without_a_store_stops_and_says_what_to_set():
    done = run(
        sys.executable, "-m", "ci.storage", "pull", "--store-needed", cwd=ROOT, ok=False,
        environment={**os.environ, "DVC_REMOTE_URL": "", "DVC_READ_URL": ""},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: No store is named")
    assert "DVC_REMOTE_URL" in done.stderr


def test_a_record_that_a_branch_committed_counts_for_nothing(history, tmp_path):
    switch(history, "precision")
    head = git("rev-parse", "HEAD", cwd=history)
    for forged in (outputs.RERUN, outputs.VERDICT):
        (history / forged).parent.mkdir(parents=True, exist_ok=True)
        (history / forged).write_text("{}")
    module(history, "retrain", **pull_of(head, "lab/cells", tmp_path))
    assert [path.name for path in (history / outputs.REPORTS).iterdir()] == [outputs.RUN.name]


def pull_of(head: str, repository: str, folder: Path) -> dict[str, str]:
    """GitHub's variables for a run of a pull request to lab/cells."""
    pull = {
        "number": 1,
        "head": {"sha": head, "ref": "x", "repo": {"full_name": repository}},
        "base": {"sha": head, "repo": {"full_name": "lab/cells"}},
    }
    (folder / "event.json").write_text(json.dumps({"pull_request": pull}))
    return {"GITHUB_EVENT_PATH": str(folder / "event.json")}


def stages(lock: str) -> dict:
    return yaml.safe_load(lock)["stages"]
