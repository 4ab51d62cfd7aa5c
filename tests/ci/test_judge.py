"""Report and gate on a repository with several revisions, made by the real `dvc repro`.

For each way in which a branch once got past the gate, a branch here tries it again.
"""

import json
import os
import shutil
import sys
from modulefinder import ModuleFinder
from pathlib import Path

import pytest
import yaml

from ci import outputs, revisions
from malaria import paths, tables
from tests.support import project
from tests.support.project import ROOT, change, commit, git, run

pytestmark = pytest.mark.long

GATE = {
    "gate.min_cells": 20,
    "gate.min_auc": 0.0,
    "gate.max_ece": 1.0,
    "gate.rerun": [],
    "gate.auc_loss": 1.0,
    "gate.sensitivity_loss": 1.0,
    "gate.point_loss": 1.0,
}


@pytest.fixture(scope="module")
def history(finished, tmp_path_factory) -> Path:
    """A clone of `finished`; main is checked out, with its results."""
    clone = tmp_path_factory.mktemp("history") / "clone"
    run("git", "clone", "-q", str(finished), str(clone), cwd=finished)
    # A separate cache, or DVC's run cache would give results that a test falsified to other tests.
    shutil.copytree(finished / ".dvc/cache", clone / ".dvc/cache")
    git("checkout", "-q", "-B", "main", cwd=clone)
    for path in outputs.TRACKED:
        shutil.copy(finished / path, clone / path)
    change(clone, GATE)
    commit(clone, "main")
    run("dvc", "checkout", "-q", cwd=clone)
    return clone


@pytest.fixture
def branch(history, request) -> Path:
    """`history` on a new branch from main; main is checked out again after the test."""
    git("checkout", "-q", "-b", request.node.name[:60], "main", cwd=history)
    yield history
    shutil.rmtree(history / outputs.REPORTS, ignore_errors=True)
    git("checkout", "-q", "--force", "main", cwd=history)
    run("dvc", "checkout", "-q", "--force", cwd=history)


def module(repository: Path, name: str, *arguments: str, ok: bool = True, **environment: str):
    """Run `python -m ci.<name>` of the repository's own code."""
    given = {key: value for key, value in os.environ.items() if not key.startswith("GITHUB_")} | environment
    return run(sys.executable, "-m", f"ci.{name}", *arguments, cwd=repository, ok=ok, environment=given)


def edit(file: Path, before: str, after: str) -> None:
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after, 1))


def take_for_granted(repository: Path, *stages: str) -> None:
    """Record the present outputs of these stages in dvc.lock without running them, and commit."""
    run("dvc", "commit", "-f", "-q", *stages, "external", cwd=repository)
    commit(repository, "as it lies here")


def found(repository: Path) -> dict:
    return json.loads((repository / outputs.COMPARISON).read_text())


def failed(repository: Path) -> list[str]:
    checks = json.loads((repository / outputs.VERDICT).read_text())["checks"]
    return [check["name"] for check in checks if check["outcome"] == "failed"]


def said(repository: Path, name: str) -> str:
    checks = json.loads((repository / outputs.VERDICT).read_text())["checks"]
    return next(check["said"] for check in checks if check["name"] == name)


@pytest.fixture(scope="module")
def leaky(history, once) -> Path:
    """A copy of `history` on a branch that trains on test patients and makes its own gate pass. Read only."""

    def make(repository: Path) -> None:
        project.copy(history, repository)
        git("checkout", "-q", "-b", "leaky", "main", cwd=repository)
        read = "splits = tables.read(SPLITS, tables.SPLITS)"
        learns = 'splits = splits.assign(split=splits.split.replace("test", "train"))'
        edit(repository / "stages/train.py", read, f"{read}\n    {learns}")
        edit(
            repository / "ci/verdict.py",
            'passed = all(check.outcome != "failed" for check in checks)',
            "passed = True",
        )
        run("dvc", "repro", cwd=repository)
        commit(repository, "learns the test")

    return once("leaky", make)


def take_results(source: Path, repository: Path) -> None:
    """Copy what training and the stages after it made in `source`."""
    made_by_it = (paths.PREDICTIONS, paths.METRICS, paths.PLOTS, paths.BUNDLE, paths.SUMMARY)
    for path in (paths.MODEL, paths.TRAINING, *made_by_it):
        if (source / path).is_dir():
            shutil.copytree(source / path, repository / path, dirs_exist_ok=True)
        else:
            shutil.copy(source / path, repository / path)


def test_a_training_on_test_patients_fails_by_the_base_s_code(leaky, tmp_path):
    repository = project.copy(leaky, tmp_path / "repository")
    assert module(repository, "gate", "--base", "main", ok=False).returncode == 1
    assert failed(repository) == ["blind training"]
    assert "another models/model.keras" in said(repository, "blind training")
    assert found(repository)["rules"] == ["ci"]


def test_a_leaky_model_made_elsewhere_fails_as_same_inputs_and_other_outputs(branch, leaky):
    take_results(leaky, branch)
    take_for_granted(branch, "train", "evaluate", "export")
    assert set(git("diff", "--name-only", "main", cwd=branch).split()) <= set(map(str, outputs.TRACKED))
    module(branch, "gate", "--report", "--base", "main")
    assert failed(branch) == ["dvc.lock"]
    assert said(branch, "dvc.lock") == "same inputs as the base's, other outputs: train"


def test_an_export_that_fits_its_thresholds_on_test_cells_fails(branch):
    edit(
        branch / "stages/export.py",
        "for name in (tables.VAL, tables.TEST)}",
        "for name in (tables.TEST, tables.VAL)}",
    )
    run("dvc", "repro", cwd=branch)
    commit(branch, "thresholds that fit")
    module(branch, "gate", "--base", "main", ok=False)
    assert failed(branch) == ["blind training"]
    assert "another models/malaria-cells/bundle.json" in said(branch, "blind training")


def test_test_cells_that_come_mirrored_as_another_laboratory_s_fail(branch):
    """The blind training hides test cells from every stage up to the bundle, not from `train` alone."""
    hands_on = """
    from malaria.cells import packed
    from malaria.paths import PACKED, SPLITS
    held, splits = packed.load(PACKED), tables.read(SPLITS, tables.SPLITS)
    rows = packed.rows_of(held, splits.path[splits.split == "test"])
    index = held.index.iloc[rows].assign(sha256=[f"{row:064}" for row in rows])
    (LABORATORIES / packed.ARRAY).unlink()
    with (LABORATORIES / packed.ARRAY).open("wb") as array:
        import numpy as np
        np.save(array, np.roll(held.images[rows][:, ::-1], 5, axis=2))
    tables.write(index, LABORATORIES / packed.INDEX, tables.INDEX)
"""
    edit(branch / "stages/laboratories.py", '    print(f"{count', f'{hands_on}    print(f"{{count')
    edit(
        branch / "dvc.yaml",
        "      - ${laboratories.folder}\n",
        "      - ${laboratories.folder}\n      - data/packed\n      - data/splits.csv\n",
    )
    run("dvc", "repro", "train", cwd=branch)
    take_for_granted(branch, "evaluate", "export")
    module(branch, "gate", "--base", "main", ok=False)
    assert failed(branch) == ["blind training"]
    assert "another models/model.keras" in said(branch, "blind training")


def test_results_that_git_holds_are_refused_and_no_verdict_is_left(branch):
    doctored = branch / ".dvc/cache/files/md5/00/doctored"
    doctored.parent.mkdir(parents=True, exist_ok=True)
    doctored.write_text("easy cells alone")
    git("add", "--force", str(doctored), cwd=branch)
    commit(branch, "a store of its own")
    (branch / outputs.REPORTS).mkdir(parents=True, exist_ok=True)
    (branch / outputs.VERDICT).write_text('{"mergeable": true, "headline": "It passes."}')
    done = module(branch, "gate", "--report", "--base", "main", ok=False)
    assert "git holds .dvc/cache/files/md5/00/doctored, where results" in done.stderr
    assert not (branch / outputs.VERDICT).exists()


def test_a_network_to_start_from_that_dvc_keeps_is_there_for_a_blind_training_too(branch):
    start = branch / "data/before"
    start.mkdir()
    shutil.copy(branch / paths.MODEL, start)
    shutil.copy(branch / paths.BUNDLE / "trained_on.npy", start)
    run("dvc", "add", "-q", str(start), cwd=branch)
    change(branch, {"train.start": "data/before"})
    run("dvc", "repro", cwd=branch)
    commit(branch, "from what was")
    module(branch, "gate", "--base", "main")
    assert "the same" in said(branch, "blind training")


def test_cells_that_go_by_another_file_s_hash_fail(branch):
    cells = tables.read(branch / paths.CELLS, tables.CELLS)
    cells.loc[0, "sha256"] = "0" * 64
    tables.write(cells, branch / paths.CELLS, tables.CELLS)
    take_for_granted(branch, "audit", "split", "pack", "train", "evaluate", "export")
    module(branch, "gate", "--report", "--base", "main")
    assert "by patient" in failed(branch)
    assert "1 cells have other bytes than their hash" in said(branch, "by patient")


def test_all_code_that_judges_or_starts_the_base_s_is_named_where_a_branch_changes_it():
    finder = ModuleFinder([str(ROOT)])
    for name in ("ci.gate", "ci.judge"):
        finder.import_hook(name)
    code = {str(Path(one.__file__).relative_to(ROOT)) for one in finder.modules.values() if one.__file__}
    assert {name for name in code if not outputs.rule(name)} == set()


def test_what_dvc_lock_claims_of_a_training_has_to_come_out_again(branch, leaky):
    take_results(leaky, branch)
    # Change an input, which allows other outputs.
    (branch / "stages/train.py").write_text((branch / "stages/train.py").read_text() + "# a word more\n")
    take_for_granted(branch, "train", "evaluate", "export")
    module(branch, "gate", "--base", "main", ok=False)
    assert failed(branch) == ["reproducible", "blind training"]
    assert "another models/model.keras" in said(branch, "reproducible")


def test_a_model_of_another_processor_is_judged_beside_what_its_code_makes_here(branch):
    (branch / "stages/train.py").write_text((branch / "stages/train.py").read_text() + "# a word more\n")
    (branch / paths.PROCESSOR).write_text("arm64, another\n")
    take_for_granted(branch, "train", "evaluate", "export")
    module(branch, "gate", "--base", "main")
    assert "no better than what its code makes here" in said(branch, "reproducible")
    assert found(branch)["above_here"] == 0


def test_code_that_answers_with_the_labels_is_not_asked(branch):
    trick = """
    if columns == SPLITS:
        from malaria.train import network
        judged = table[table.split != TRAIN].sort_values(["split", "path"])
        network.predict = lambda *_: (judged.label == "Parasitized").to_numpy("float64")
    return table
"""
    file = branch / "malaria/tables.py"
    last = "        return texts.astype(columns)\n"
    edit(file, last, last.replace("return", "table =", 1))
    edit(
        file,
        'run `dvc repro`.") from None\n\n\ndef read_user_table',
        f'run `dvc repro`.") from None\n{trick}\n\ndef read_user_table',
    )
    run("dvc", "repro", "--force", "--single-item", "evaluate", cwd=branch)
    take_for_granted(branch, "audit", "split", "pack", "train", "evaluate", "export")
    module(branch, "gate", "--report", "--base", "main")
    (auc,) = (figure for figure in found(branch)["figures"] if figure["name"] == "auc")
    assert found(branch)["claims"]["auc"] == 1.0
    assert auc["branch"] == auc["base"] < 0.99


def test_doctored_predictions_behind_a_frozen_stage_fail(branch):
    content = yaml.safe_load((branch / "dvc.yaml").read_text())
    content["stages"]["evaluate"]["frozen"] = True
    (branch / "dvc.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    predictions = tables.read(branch / paths.PREDICTIONS, tables.PREDICTIONS)
    right = (predictions.label == "Parasitized") * 0.98 + 0.01
    tables.write(predictions.assign(p_parasitized=right), branch / paths.PREDICTIONS, tables.PREDICTIONS)
    change(branch, {"gate.rerun": ["evaluate"]})
    take_for_granted(branch, "evaluate", "export")
    git("checkout", "-q", "-B", "rerun", "main", cwd=branch)
    change(branch, {"gate.rerun": ["evaluate"]})
    commit(branch, "run evaluate again")
    git("checkout", "-q", "-", cwd=branch)
    module(branch, "gate", "--base", "rerun", ok=False)
    assert {"reproducible", "dvc.lock"} == set(failed(branch))
    assert "freezes evaluate" in said(branch, "reproducible")


def rename_cells(repository: Path) -> None:
    """Write a folder of the same cells, in which a test patient is called NEW and is a train patient."""
    splits = tables.read(repository / paths.SPLITS, tables.SPLITS)
    patient = splits.patient[splits.split == "test"].iloc[0]
    shutil.copytree(
        repository / paths.RAW, repository.parent / "cells", ignore=shutil.ignore_patterns("provenance.json")
    )
    named = splits.assign(
        file=splits.path.str.split("/").str[1], patient=splits.patient.replace(patient, "NEW")
    )
    named[["file", "patient"]].to_csv(repository.parent / "cells/patients.csv", index=False)
    named.loc[named.patient == "NEW", "split"] = "train"
    named.drop_duplicates("patient")[["patient", "split"]].to_csv(repository / "data/split.csv", index=False)


def test_test_cells_trained_on_under_a_new_name_fail(branch):
    rename_cells(branch)
    change(branch, {"data.source": "folder", "data.folder": str(branch.parent / "cells")})
    run("dvc", "repro", "split", "pack", cwd=branch)
    take_for_granted(branch, "train", "evaluate", "export")
    module(branch, "gate", "--report", "--base", "main")
    assert "by patient" in failed(branch)
    assert "test cells are trained on under another patient's name" in said(branch, "by patient")


def test_a_split_by_image_fails_in_its_own_words(branch):
    change(branch, {"split.unit": "image"})
    run("dvc", "repro", "split", cwd=branch)
    take_for_granted(branch, "train", "evaluate", "export")
    module(branch, "gate", "--report", "--base", "main")
    assert "by patient" in failed(branch)
    assert "the split is not by patient" in said(branch, "by patient")


def test_a_first_release_that_is_no_better_than_chance_fails(branch):
    change(branch, {"gate.min_auc": 0.9})
    commit(branch, "a floor")
    first = git("rev-list", "--max-parents=0", "HEAD", cwd=branch)
    module(branch, "gate", "--report", "--base", first)
    assert found(branch)["base"] is None
    assert failed(branch) == ["AUC at least"]


def test_the_base_s_limits_count_and_not_the_branch_s(branch):
    git("checkout", "-q", "-B", "strict", "main", cwd=branch)
    change(branch, {"gate.min_cells": 1000})
    commit(branch, "strict")
    git("checkout", "-q", "-", cwd=branch)
    change(branch, {"gate.min_cells": 1})
    commit(branch, "lenient")
    done = module(branch, "gate", "--base", "strict", ok=False)
    assert (done.returncode, failed(branch)) == (1, ["comparable"])
    assert found(branch)["rules"] == ["params.yaml: gate"]
    assert found(branch)["behind"] == 1


def test_a_changed_parameter_reruns_its_stage_and_the_report_says_so(branch, tmp_path):
    change(branch, {"export.precision": "float16"})
    commit(branch, "half the space")
    module(branch, "retrain")
    commit(branch, "results")
    git("checkout", "-q", "-B", "again", "main", cwd=branch)
    change(branch, {"gate.rerun": ["split"], "gate.min_cells": 1000})
    commit(branch, "run split again")
    git("checkout", "-q", "-", cwd=branch)
    summary = tmp_path / "summary.md"
    done = module(
        branch, "gate", "--base", "again", "--label", "gate-override",
        GITHUB_STEP_SUMMARY=str(summary), GITHUB_ACTIONS="true",
    )  # fmt: skip
    assert "::warning::The gate FAILS (comparable" in done.stdout
    assert "overridden by a label" in summary.read_text()
    # The change is legitimate: no other check fails, and the blind training makes the same outputs.
    assert failed(branch) == ["comparable"]
    assert "the same" in said(branch, "blind training")
    assert "split ran again in" in said(branch, "reproducible")
    assert "the same 3 outputs" in said(branch, "reproducible")
    facts = found(branch)
    changed = {one["key"] for one in facts["changes"]}
    assert changed == {"export.precision", "gate.rerun", "gate.min_cells"}
    assert {stage["name"] for stage in facts["stages"] if stage["how"] == "ran"} == {"export", "external"}
    assert facts["branch"]["bundle_bytes"] < facts["base"]["bundle_bytes"]
    assert (branch / outputs.PLOTS / "index.html").is_file()


def test_a_stage_that_gives_other_bytes_when_run_again_fails_the_gate(branch):
    noise = '{**asdict(summary), "at": __import__("time").time()}'
    edit(branch / "stages/split.py", "asdict(summary)", noise)
    change(branch, {"gate.rerun": ["split"]})
    run("dvc", "repro", "split", cwd=branch)
    take_for_granted(branch, "export")
    git("checkout", "-q", "-B", "again", "main", cwd=branch)
    change(branch, {"gate.rerun": ["split"]})
    commit(branch, "run split again")
    git("checkout", "-q", "-", cwd=branch)
    module(branch, "gate", "--base", "again", ok=False)
    assert failed(branch) == ["reproducible"]
    assert "another reports/split.json" in said(branch, "reproducible")


def test_report_and_gate_work_right_after_a_run_in_a_fresh_clone(history, tmp_path):
    clone = tmp_path / "clone"
    git("clone", "-q", "--branch", "main", str(history), str(clone), cwd=tmp_path)
    # The stages find their results in DVC's run cache.
    shutil.copytree(history / ".dvc/cache", clone / ".dvc/cache", copy_function=os.link)
    run("dvc", "repro", cwd=clone)
    for options, headline in ((("--report",), "No check fails so far"), ((), "The gate passes.")):
        said = module(clone, "gate", *options, "--base", "main").stdout
        assert headline in said
        assert "made anew" not in said


def test_results_that_are_behind_the_parameters_are_not_reported(branch):
    change(branch, {"evaluate.bins": 10})
    done = module(branch, "gate", "--report", "--base", "main", ok=False)
    assert done.returncode == 1
    assert "not up to date (dvc status: evaluate, export, external): run `dvc repro`" in done.stderr


def test_an_unknown_base_is_named(history):
    done = module(history, "gate", "--report", "--base", "mian", ok=False)
    assert done.stderr.startswith("error: git knows no revision mian")


def test_a_base_whose_results_are_gone_is_made_anew_and_said_so(branch):
    cache = Path(run("dvc", "cache", "dir", cwd=branch).stdout.strip())
    entry = next(
        out for out in revisions.lock_of(branch)["export"]["outs"] if out["path"] == str(paths.BUNDLE)
    )
    kept = cache / "files/md5" / entry["md5"][:2] / entry["md5"][2:]
    aside = kept.with_name("aside")
    # No other test may make this change: DVC's run cache would give it the results of this one.
    change(branch, {"evaluate.specificities": [0.9]})
    run("dvc", "repro", cwd=branch)
    commit(branch, "one operating point")
    kept.rename(aside)
    runs = cache / "runs"
    runs.rename(cache / "runs-aside")
    try:
        done = module(branch, "gate", "--report", "--base", "main")
        assert "export were in no store, and made anew" in done.stdout
        assert "made anew" in found(branch)["base"]["note"]
    finally:
        aside.rename(kept)
        shutil.rmtree(runs, ignore_errors=True)
        (cache / "runs-aside").rename(runs)


def test_a_fork_is_compared_on_the_sample_whatever_the_source(branch, tmp_path):
    change(branch, {"data.source": "nlm"})
    real = commit(branch, "the real set")
    variables = pull_of(real, "stranger/cells", tmp_path)
    module(branch, "retrain", **variables)
    module(branch, "gate", "--report", **variables)
    facts = found(branch)
    assert facts["sample"]
    assert facts["base"]["source"] == facts["branch"]["source"] == "sample"


def test_what_is_run_again_starts_from_every_change_of_the_work_tree(tmp_path):
    repository = tmp_path / "repository"
    repository.mkdir()
    for name in ("kept", "staged", "both", "dropped", "gone", "folder/file"):
        (repository / name).parent.mkdir(exist_ok=True)
        (repository / name).write_text("before\n")
    run("git", "init", "-q", ".", cwd=repository)
    run("dvc", "init", "-q", cwd=repository)
    (repository / "tool").mkdir()
    (repository / "tool/file").touch()
    run("git", "init", "-q", "tool", cwd=repository)
    commit(repository / "tool", "a repository in this one")
    commit(repository, "all")
    (repository / "tool/file").write_text("after\n")
    (repository / "link").symlink_to("tool")
    shutil.rmtree(repository / "folder")
    (repository / "folder").write_text("a file now\n")
    for name in ("staged", "both", "new"):
        (repository / name).write_text("staged\n")
        git("add", name, cwd=repository)
    (repository / "both").write_text("after\n")
    (repository / "untracked").write_text("after\n")
    git("rm", "-q", "dropped", cwd=repository)
    (repository / "gone").unlink()
    revisions.copy_of_work_tree(repository, tmp_path / "copy")
    names = ("kept", "staged", "both", "new", "untracked", "dropped", "gone")
    copied = {name: tmp_path / "copy" / name for name in names}
    assert (tmp_path / "copy/link").readlink() == Path("tool")
    assert (tmp_path / "copy/folder").read_text() == "a file now\n"
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


def test_a_record_that_a_branch_committed_counts_for_nothing(branch, tmp_path):
    head = git("rev-parse", "HEAD", cwd=branch)
    (branch / outputs.REPORTS).mkdir(parents=True, exist_ok=True)
    (branch / outputs.VERDICT).write_text("{}")
    module(branch, "retrain", **pull_of(head, "lab/cells", tmp_path))
    assert [path.name for path in (branch / outputs.REPORTS).iterdir()] == [outputs.RUN.name]


def test_a_run_on_what_was_handed_back_tells_what_the_training_did(branch):
    trailer = "Stages: split unchanged 0.0, train ran 214.0"
    git("commit", "-q", "--allow-empty", "-m", f"Retrained: dvc.lock and figures\n\n{trailer}", cwd=branch)
    module(branch, "retrain")
    stages = json.loads((branch / outputs.RUN).read_text())["stages"]
    assert stages == [
        {"name": "split", "how": "unchanged", "seconds": None},
        {"name": "train", "how": "ran", "seconds": 214.0},
    ]


def pull_of(head: str, repository: str, folder: Path) -> dict[str, str]:
    """GitHub's environment variables for a run of a pull request from `repository` to lab/cells."""
    pull = {
        "number": 1,
        "head": {"sha": head, "ref": "x", "repo": {"full_name": repository}},
        "base": {"sha": head, "repo": {"full_name": "lab/cells"}},
    }
    (folder / "event.json").write_text(json.dumps({"pull_request": pull}))
    return {"GITHUB_EVENT_PATH": str(folder / "event.json")}
