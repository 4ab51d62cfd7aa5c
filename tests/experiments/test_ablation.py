"""The ablation's rows do what they say; its table compares with the first; finished folds are kept."""

import sys

import numpy as np
import pandas as pd
import pytest

from malaria.params import load_params
from tests.conftest import ROOT
from tests.support import project

pytestmark = pytest.mark.filterwarnings(
    # TensorFlow's and Keras's own, raised while they import or trace; until they are fixed.
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::UserWarning",
)


def test_the_plain_shape_is_the_pipelines_network():
    from experiments import variants
    from malaria.train import network

    shapes = [weight.shape for weight in variants.plain(50, network.WIDTHS).weights]
    assert shapes == [weight.shape for weight in network.build(50).weights]


def test_another_shape_answers_with_a_probability_and_may_be_exported():
    from experiments import variants
    from malaria.bundle import convert

    model = variants.ROWS["wide"].build(50)
    p = np.asarray(model(np.full((2, 50, 50, 3), 120, np.float32)))
    assert p.shape == (2, 1)
    assert ((p > 0) & (p < 1)).all()
    assert model.count_params() <= convert.MOST_PARAMETERS


def test_every_row_trains_with_its_own_parameters_for_its_own_epochs():
    from experiments import ablate, variants

    settings = load_params(ROOT / "params.yaml")
    for name, row in variants.ROWS.items():
        found = ablate.of_row(settings, 3, name).train.model_dump()
        expected = settings.train.model_dump() | {"epochs": 3, "patience": 3} | dict(row.settings)
        expected |= {"epochs": 6, "patience": 6} if name == "longer" else {}
        assert found == expected


def test_the_table_compares_each_row_with_the_first():
    from experiments import ablate

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
    table = ablate.as_table(
        {"a": cells, "b": worse}, {"a": "the recipe", "b": "a change"}, settings, frozenset()
    )
    recipe, change = table.splitlines()[2:]
    assert recipe.startswith("| the recipe | 1.0000 (0.0000) |")
    assert change.startswith("| a change | 0.9000 (0.2236) |")
    assert "-0.1000 (-0.2" in change


@pytest.mark.long
def test_rows_are_cross_validated_and_a_second_run_trains_nothing(repository):
    project.change(repository, {"split.folds": 3})
    command = (sys.executable, "-m", "experiments.ablate", "--rows", "no_average", "--epochs", "1")
    said = project.run(*command, cwd=repository).stdout
    assert "| no averaging of weights |" in said
    judged = pd.read_csv(repository / "reports/ablation/no_average.csv")
    assert judged.path.is_unique
    assert set(judged.fold) == {0, 1, 2}
    assert "val_auc" in said
    again = project.run(*command, cwd=repository).stdout
    assert "val_auc" not in again
    assert again.partition("| change |")[2] == said.partition("| change |")[2]
