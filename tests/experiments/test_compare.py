"""`python -m experiments.compare` puts two models' figures side by side."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from malaria import tables

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path):
    """A folder with params.yaml, a cross-validation of 800 cells and another model's worse predictions."""
    random = np.random.default_rng(2)
    y = np.arange(800) % 2
    labels = np.where(y == 1, "Parasitized", "Uninfected")
    logit = np.where(y == 1, 2.5, -2.5) + random.normal(0, 2, 800)
    logit[(np.arange(800) // 40 == 7) & (y == 1)] = -1.0
    cells = pd.DataFrame(
        {
            "path": [f"{label}/cell_{number:03}.png" for number, label in enumerate(labels)],
            "patient": [f"P{number // 40}" for number in range(800)],
            "label": labels,
            "p_network": 1 / (1 + np.exp(-logit)),
            "p_parasitized": 1 / (1 + np.exp(-logit)),
            "fold": np.arange(800) // 160,
        }
    ).sort_values("path")
    tables.write(cells, tmp_path / "reports/crossval/crossval.csv", tables.OUT_OF_FOLD)
    worse = 1 / (1 + np.exp(-logit + np.where(y == 1, 1.5, -1.5)))
    names = [f"cell_{number:03}.png" for number in range(800)]
    pd.DataFrame({"file": names, "p_parasitized": worse}).to_csv(tmp_path / "other.csv", index=False)
    doubtful = tmp_path / "data/doubtful.csv"
    doubtful.parent.mkdir()
    doubtful.write_text("given_label,file\nUninfected,cell_000.png\n")
    text = (ROOT / "params.yaml").read_text().replace("resamples: 1000 ", "resamples: 100 ")
    (tmp_path / "params.yaml").write_text(text)
    return tmp_path


def compare(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "experiments.compare", *arguments]
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


def test_two_models_are_compared_pooled_by_fold_and_on_each_version_of_the_labels(project):
    done = compare(project, "other.csv")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(project / "reports/crossval/comparison.csv")
    assert set(table.cells) == {"pooled", *(f"fold {number}" for number in range(5))}
    assert set(table.labels) == {"as_given", "without_doubtful", "doubtful_flipped"}
    accuracy = table[(table.cells == "pooled") & (table.figure == "accuracy")]
    assert (accuracy.low > 0).all()
    assert "pooled, labels without doubtful" in done.stdout
    assert "told apart" in done.stdout
    assert "of 20 patients with at least 20 parasitised cells, 20 under" not in done.stdout
    assert "P7 0.000" in done.stdout


def test_predictions_of_other_cells_are_refused(project):
    (project / "other.csv").write_text("file,p_parasitized\nstranger.png,0.5\n")
    done = compare(project, "other.csv")
    assert done.returncode == 1
    assert "other.csv predicts none of the cells" in done.stderr
