"""`make bench-inference`, for a moment."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import inference
from malaria.errors import UserError

ROOT = Path(__file__).parents[2]


def test_ratios_are_medians_over_rounds_of_how_much_less_the_bundle_takes():
    runs = pd.DataFrame(
        [
            {"round": number, "way": way, "one cell, ms": ms * number}
            for number, predict in enumerate((30, 40, 1000), start=1)
            for way, ms in zip(inference.WAYS, (1, predict, 3), strict=True)
        ]
    )
    medians, ratios = inference.compared(runs)
    assert medians["one cell, ms"].to_dict() == {"bundle": 2, "predict": 80, "model(x)": 6}
    assert ratios["one cell, ms"].to_dict() == {"predict": 40, "model(x)": 3}


def test_the_bundle_answers_in_a_process_of_its_own_without_tensorflow(model_bundle, tmp_path):
    cells = tmp_path / "cells.npy"
    np.save(cells, inference.draw_cells(50)[:4])
    command = [sys.executable, "-X", "importtime", "-m", "benchmarks.inference", "--way", "bundle"]
    command += ["--model", str(model_bundle), "--cells", str(cells), "--calls", "3", "--batches", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "tensorflow" not in done.stderr
    assert done.stdout.startswith("first answer")


def test_a_bundle_of_another_network_is_not_compared(model_bundle):
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.Input((50, 50, 3)), keras.layers.Conv2D(7, 3)])
    with pytest.raises(UserError, match="is of another network"):
        inference.check_same(model_bundle, model)
