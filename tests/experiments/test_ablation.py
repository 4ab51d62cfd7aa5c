"""The ablation: each row's parameters, the comparison with the first row, and reuse of finished folds."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from experiments import ablate
from malaria.params import load_params
from tests.conftest import ROOT
from tests.support import project


def test_every_row_trains_with_its_own_parameters_for_its_own_epochs(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    settings = load_params(ROOT / "params.yaml")
    for name, row in ablate.ROWS.items():
        sets = (change.split("=") for change in ablate.changes_of(row, 3))
        project.change(tmp_path, {key: yaml.safe_load(value) for key, value in sets})
        expected = settings.train.model_dump() | {"epochs": 3, "patience": 3} | dict(row.settings)
        expected |= {"epochs": 6, "patience": 6} if name == "longer" else {}
        assert load_params(tmp_path / "params.yaml").train.model_dump() == expected
        shutil.copy(ROOT / "params.yaml", tmp_path)


def test_the_table_compares_each_row_with_the_first():
    settings = load_params(ROOT / "params.yaml").evaluate.model_copy(update={"resamples": 200})
    count = 400
    y = np.arange(count) % 2
    cells = pd.DataFrame(
        {
            "path": [f"{('Uninfected', 'Parasitized')[k]}/c{n}.png" for n, k in enumerate(y)],
            "patient": [f"P{n // 20}" for n in range(count)],
            "label": np.where(y == 1, "Parasitized", "Uninfected"),
            "p_parasitized": 0.1 + 0.8 * y,
            "fold": np.arange(count) // 80,
        }
    )
    worse = cells.assign(p_parasitized=cells.p_parasitized.where((y == 0) | (np.arange(count) >= 80), 0.2))
    table = ablate.as_table({"recipe": cells, "no_average": worse}, settings, frozenset())
    recipe, change = table.splitlines()[2:]
    assert recipe.startswith("| the recipe | 1.0000 (0.0000) |")
    assert change.startswith("| no averaging of weights | 0.9000 (0.2236) |")
    assert "-0.1000 (-0.2" in change


@pytest.mark.longest
@pytest.mark.long
def test_rows_are_cross_validated_and_what_has_run_before_is_not_trained_again(crossvalidated, tmp_path):
    repository = project.copy(crossvalidated, tmp_path / "repository")
    project.change(repository, {"split.folds": 3})

    def ablate(row: str) -> str:
        command = (sys.executable, "-m", "experiments.ablate", "--rows", row, "--epochs", "2")
        return project.run(*command, cwd=repository).stdout.partition("| change |")[2]

    def runs() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (repository / ".dvc/cache/runs").glob("*/*/*")}

    before = runs()
    _, change = ablate("no_average").splitlines()[2:]
    assert change.startswith("| no averaging of weights |")
    judged = pd.read_csv(repository / "reports/ablation/no_average.csv")
    assert judged.path.is_unique
    assert set(judged.fold) == {0, 1, 2}
    # The recipe's folds are those of the cross-validation, and come from DVC's run cache.
    kept = runs()
    assert before.items() <= kept.items()
    assert ["stages.train" in path.read_text() for path in kept.keys() - before.keys()] == [True] * 3
    folds = (repository / "reports" / name for name in ("ablation/recipe.csv", "crossval/spread.csv"))
    assert len({file.read_bytes() for file in folds}) == 1
