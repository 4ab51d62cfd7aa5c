"""experiments.precision: the decisions that a smaller precision changes, and its effect on the AUC."""

import numpy as np
import pandas as pd
import pytest

from experiments import precision


def test_decisions_that_differ_are_counted_and_the_change_in_auc_has_a_sign():
    y = np.arange(100) % 2
    trained = np.where(y == 1, 0.8, 0.2) + np.linspace(0, 0.01, 100)
    exported = trained.copy()
    exported[[0, 1]] = 0.9, 0.1
    found = precision.cost(exported, trained, y, np.arange(100) > 1)
    assert (found["cells"], found["decisions"]) == (100, 2)
    assert found["auc"] < 0
    assert found["auc_sure"] == 0
    assert found["largest_in_p"] == pytest.approx(0.7, abs=0.02)


def test_all_folds_together_have_the_largest_change_whatever_its_sign():
    names = ["fold", "precision", "bytes", "cells", "decisions", "auc", "auc_sure", "largest_in_p"]
    one = ("crossval-0", "int8", 10, 100, 1, 0.001, -0.0002, 0.1)
    other = ("crossval-1", "int8", 12, 50, 2, -0.003, 0.0001, 0.05)
    found = precision.over_folds(pd.DataFrame([one, other], columns=names))
    assert found.loc["int8"].tolist() == [12, 150, 3, -0.003, -0.0002, 0.1]
