"""The real `dvc` on a small sample: runs, reruns, outputs, experiments, and commands that use the results."""

import csv
import json
import os
import re
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from sklearn.metrics import roc_auc_score

from malaria import bundle
from malaria.paths import BUNDLE, LABEL_AUDIT, MODEL, PARAMS
from tests.support.project import ROOT, change, run

STAGES = ("fetch", "audit", "split", "pack", "laboratories", "train", "evaluate", "export", "external")


def changed_stages(repository: Path) -> set[str]:
    status = json.loads(run("dvc", "status", "--json", cwd=repository).stdout)
    return set(status)


def test_a_finished_run_is_clean_and_a_second_runs_nothing(repository):
    assert changed_stages(repository) == set()
    assert "Running stage" not in run("dvc", "repro", cwd=repository).stdout


def test_the_libraries_below_say_nothing_between_our_own_lines(finished):
    terminal = Path(f"{finished}.terminal.txt").read_text()
    assert "val AUC" in terminal
    assert not re.search("oneDNN|cuda|tensorflow|absl|WARNING", terminal)


def test_a_wrong_parameter_stops_at_once_with_a_sentence(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    change(tmp_path, {"train.epochs": -3})
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = run(sys.executable, "-m", "stages.train", cwd=tmp_path, ok=False, environment=environment)
    assert done.returncode == 1
    sentence = "params.yaml: train.epochs is -3, but must be an integer from 1 to 1000."
    assert done.stderr.strip() == f"error: {sentence}"


def test_the_outputs_are_what_dvc_yaml_promises(finished, tmp_path):
    metrics = json.loads((finished / "reports/metrics.json").read_text())
    judged = pd.read_csv(finished / "reports/predictions.csv").query("split == 'test'")
    auc = roc_auc_score(judged.label == "Parasitized", judged.p_parasitized)
    assert metrics["test"]["auc"]["value"] == pytest.approx(auc)
    with (finished / "data/splits.csv").open() as table:
        assert {row["split"] for row in csv.DictReader(table)} == {"train", "val", "test"}
    record = json.loads((finished / "models/malaria-cells/bundle.json").read_text())
    assert record["synthetic"] is True
    assert bundle.load(finished / "models/malaria-cells").manifest
    card = (finished / "models/malaria-cells/MODEL_CARD.md").read_text()
    assert "synthetic sample" in card
    assert "No patient was both learned from and judged" in card
    assert re.search(r"\| test \| \d+ \| \d+ \(\d+\.\d\d %\) \| \d+ \|", card)
    assert "synthetic sample" in (finished / "reports/audit.html").read_text().lower()
    shown = run("dvc", "metrics", "show", "--json", cwd=finished).stdout
    assert set(json.loads(shown)[""]["data"]) == {"reports/summary.json"}
    run("dvc", "plots", "show", "-o", str(tmp_path / "page"), cwd=finished)


def test_predict_gives_a_row_an_image_whatever_it_is_given(finished, tmp_path):
    cell = next((finished / "data/raw/Parasitized").iterdir())
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as pack:
        pack.write(cell, "deep/cell.png")
        pack.writestr("deep/note.png", "no image")
    out = tmp_path / "out.csv"
    command = (sys.executable, "-m", "malaria", "predict", str(cell), str(tmp_path / "in.zip"))
    options = ("--model", "models/malaria-cells", "--max-unreadable", "0.5", "--out", str(out))
    run(*command, *options, cwd=finished)
    with out.open() as table:
        one, inside, bad = csv.DictReader(table)
    assert list(one) == ["path", "p_parasitized", "category", "status", "reason"]
    assert inside["path"].endswith("in.zip/deep/cell.png")
    assert inside["p_parasitized"] == one["p_parasitized"]
    assert (bad["p_parasitized"], bad["category"], bad["status"]) == ("", "", "unreadable")


def test_the_exported_bundle_turns_away_what_is_no_cell_and_few_cells(finished, tmp_path):
    Image.new("RGB", (120, 120), "white").save(tmp_path / "blank.png")
    out = tmp_path / "out.csv"
    command = (sys.executable, "-m", "malaria", "predict", str(tmp_path / "blank.png"), "data/raw")
    run(*command, "--model", "models/malaria-cells", "--out", str(out), cwd=finished)
    with out.open() as table:
        blank, *rows = csv.DictReader(table)
    assert (blank["p_parasitized"], blank["category"], blank["status"]) == ("", "", "rejected")
    assert "no cell to be seen" in blank["reason"]
    assert sum(row["status"] == "rejected" for row in rows) < 24


def test_evaluate_scores_a_labelled_folder_as_the_pipeline_does(finished):
    done = run(
        sys.executable, "-m", "malaria", "evaluate", "data/raw", "--model", "models/malaria-cells", "--json",
        cwd=finished,
    )  # fmt: skip
    scores = json.loads(done.stdout)
    assert scores["cells"] + scores["rejected"]["cells"] == scores["rejected"]["of"] == 240
    assert scores["rejected"]["cells"] < 24


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda bundle: (bundle / "network.tflite").write_bytes(b"other"), "its hash differs"),
        (lambda bundle: (bundle / "network.tflite").unlink(), "is incomplete, without network.tflite"),
        (lambda bundle: (bundle / "bundle.json").unlink(), "it holds no bundle.json"),
        (lambda bundle: (bundle / "bundle.json").write_text("{}"), "of an unknown schema or damaged"),
        (lambda bundle: shutil.rmtree(bundle), "is no model bundle"),
    ],
)
def test_a_bundle_that_cannot_be_trusted_is_refused(finished, tmp_path, spoil, sentence):
    from malaria import bundle
    from malaria.errors import UserError

    copy = tmp_path / "bundle"
    shutil.copytree(finished / "models/malaria-cells", copy)
    spoil(copy)
    with pytest.raises(UserError, match=sentence):
        bundle.load(copy)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_help_is_short_and_needs_no_tensorflow_for_it(stage):
    done = run(sys.executable, "-X", "importtime", "-m", f"stages.{stage}", "--help", cwd=ROOT)
    assert f"python -m stages.{stage}" in done.stdout
    assert "tensorflow" not in done.stderr
    assert len((ROOT / "stages" / f"{stage}.py").read_text().splitlines()) < 100


@pytest.mark.long
def test_an_experiment_runs_as_dvc_users_type_it(repository):
    done = run("dvc", "exp", "run", "--temp", "-S", "train.epochs=1", "-n", "short", cwd=repository)
    assert "Ran experiment" in done.stdout
    header, *rows = csv.reader(run("dvc", "exp", "show", "--csv", cwd=repository).stdout.splitlines())
    assert any("short" in row for row in rows)
    # The columns of figures come first, before those of the parameters.
    summary = json.loads((repository / "reports/summary.json").read_text())
    shown = header[header.index("parent") + 1 : header.index("data.source")]
    # A figure that is null in every run has no column.
    assert {name for name, value in summary.items() if value is not None} <= set(shown) <= set(summary)
    changed = json.loads(run("dvc", "params", "diff", "--json", "HEAD", "short", cwd=repository).stdout)
    assert changed == {"params.yaml": {"train.epochs": {"old": 2, "new": 1, "diff": -1}}}
    assert (
        "reports/summary.json"
        in run("dvc", "metrics", "diff", "--all", "HEAD", "short", cwd=repository).stdout
    )
    run("dvc", "plots", "diff", "short", "workspace", "-o", "plots-diff", cwd=repository)
    assert "short" in (repository / "plots-diff/index.html").read_text()


@pytest.mark.long
def test_cross_validation_runs_its_folds_side_by_side(crossvalidated):
    terminal = Path(f"{crossvalidated}.terminal.txt").read_text()
    assert re.search(r"^ +mean( +[01]\.[0-9]{4}){5}$", terminal, re.MULTILINE)
    with (crossvalidated / "reports/crossval/spread.csv").open() as table:
        judged = list(csv.DictReader(table))
    assert len({row["path"] for row in judged}) == len(judged) == 240
    assert {row["fold"] for row in judged} == {"0", "1", "2"}
    assert list((crossvalidated / ".dvc/tmp/folds").iterdir()) == []
    assert "spread-2" in run("dvc", "exp", "list", "--name-only", cwd=crossvalidated).stdout


@pytest.mark.long
def test_adapting_trains_on_from_a_network_and_compares_before_and_after(repository, tmp_path):
    from malaria.train import network

    start, after = tmp_path / "start", tmp_path / MODEL.name
    shutil.copytree(repository / BUNDLE, start)
    shutil.copy(repository / MODEL, start)
    command = (sys.executable, "-m", "experiments.adapt", "--start", str(start), "--rate", "1e-9")
    said = run(*command, "--epochs", "1", cwd=repository).stdout
    assert re.findall(r"^test cells, (\w+): \d+ cells", said, re.MULTILINE) == ["before", "after"]
    # In a separate process, because DVC leaves git's pack files open.
    fetch = f"""
from pathlib import Path
from experiments import experiment
print(experiment.read("adapted", Path({str(PARAMS)!r})))
experiment.get("adapted", Path({str(MODEL)!r}), Path({str(after)!r}))
"""
    params = yaml.safe_load(run(sys.executable, "-c", fetch, cwd=repository).stdout)
    assert (params["train"]["start"], params["train"]["epochs"]) == (str(start), 1)
    # A learning rate of 1e-9 leaves the weights of the start unchanged.
    weights = (network.load(folder / MODEL.name).trainable_weights for folder in (start, tmp_path))
    assert all(np.allclose(one, other, atol=1e-4) for one, other in zip(*weights, strict=True))


@pytest.mark.long
def test_the_pretrained_bundle_is_judged_by_the_folds_that_never_saw_its_patients(crossvalidated, tmp_path):
    out = tmp_path / "bundle"
    out.mkdir()
    (out / LABEL_AUDIT.name).write_text("path,label,p_parasitized,score\n")
    command = (sys.executable, "-m", "experiments.pretrained", "--name", "spread", "--out", str(out))
    run(*command, cwd=crossvalidated)
    assert (out / LABEL_AUDIT.name).is_file()
    card = " ".join((out / "MODEL_CARD.md").read_text().split())
    assert "240 cells of 12 patients" in card
    assert "asked about the patients that it never saw" in card
    assert bundle.load(out).fitted_ood is not None
