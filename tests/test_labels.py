"""malaria.labels: Parasitized has the value 1, and P equal to the threshold counts as Parasitized."""

import pandas as pd
import pytest

from malaria import labels


@pytest.mark.parametrize(
    ("p", "options", "label"),
    [
        (0.5, {}, "Parasitized"),
        (0.4999, {}, "Uninfected"),
        (0.7, {"threshold": 0.7}, "Parasitized"),
        (0.7001, {"threshold": 0.7}, "Parasitized"),
        (0.6999, {"threshold": 0.7}, "Uninfected"),
    ],
)
def test_a_cell_is_parasitized_from_the_threshold_on(p, options, label):
    assert labels.category(p, **options) == label


def test_parasitized_is_one_and_uninfected_is_zero():
    values = labels.values(pd.Series(["Parasitized", "Uninfected"]))
    assert (values.tolist(), values.dtype) == ([1, 0], "int64")
    assert [labels.LABELS.index(label) for label in ("Uninfected", "Parasitized")] == [0, 1]
