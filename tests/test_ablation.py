"""The ablation's networks and altered batches do what their rows say; its table compares with the first."""

import numpy as np
import pandas as pd
import pytest

from malaria.params import load_params
from tests.conftest import ROOT

pytestmark = pytest.mark.filterwarnings(
    # TensorFlow's and Keras's own, raised while they import or trace; until they mend them.
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::UserWarning",
)


def test_the_plain_shape_is_the_pipelines_network():
    from experiments import variants
    from malaria import network

    shapes = [weight.shape for weight in variants.shaped()(50).weights]
    assert shapes == [weight.shape for weight in network.build(50).weights]


@pytest.mark.parametrize("name", ["strided", "wide", "excite", "blurred", "residual", "classic"])
def test_every_shape_answers_with_a_probability_and_may_be_exported(name):
    from experiments import variants
    from malaria import export

    model = variants.ROWS[name].build(50)
    p = np.asarray(model(np.full((2, 50, 50, 3), 120, np.float32)))
    assert p.shape == (2, 1)
    assert ((p > 0) & (p < 1)).all()
    assert model.count_params() <= export.MOST_PARAMETERS


def test_blurred_pooling_keeps_an_even_picture_even():
    from experiments import variants

    even = np.ones((1, 12, 12, 4), np.float32)
    assert np.asarray(variants._pool(even, blurred=True))[:, 1:-1, 1:-1] == pytest.approx(1)


@pytest.mark.parametrize("name", ["mix_up", "elastic", "rescaled"])
def test_altered_batches_keep_their_shape_and_stay_in_range(name):
    from experiments import variants

    images = np.random.default_rng(0).uniform(0, 255, (6, 50, 50, 3)).astype(np.float32)
    targets = np.array([0, 1, 0, 1, 1, 0], np.float32)
    altered, learnt = map(np.asarray, variants.ROWS[name].alter(images, targets))
    assert altered.shape == images.shape
    assert altered.min() >= 0
    assert altered.max() <= 255.01
    assert ((learnt >= 0) & (learnt <= 1)).all()


def test_every_row_changes_parameters_that_there_are():
    from experiments import variants

    known = load_params(ROOT / "params.yaml").train.model_dump()
    assert {key for row in variants.ROWS.values() for key in row.settings} <= set(known)


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
            "p_views": 0.1 + 0.8 * y,
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
