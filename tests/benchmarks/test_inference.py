"""`make bench-inference`, for a moment."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import inference
from malaria.errors import UserError

ROOT = Path(__file__).parents[2]


def a_run(seconds: float) -> inference.Run:
    """A run in which everything takes `seconds`."""
    latency = inference.Latency(1000 * seconds, 2000 * seconds, 1000 * seconds, 1 / seconds)
    return inference.Run(seconds, seconds, 100 * seconds, latency, latency)


def test_ratios_are_medians_over_rounds_of_how_much_less_the_bundle_takes():
    rounds = [
        dict(zip(inference.SIDES, map(a_run, (1, 1, 1, others, 3)), strict=True)) for others in (30, 40, 1000)
    ]
    predict, compiled = inference.as_text(rounds).splitlines()[-2:]
    assert predict.split() == ["predict", "40.0", "(40.0)", "40.0", "40.0", "(40.0)", "40.0", "(40.0)"]
    assert compiled.split()[:3] == ["model(x)", "3.0", "(3.0)"]


def test_the_bundle_answers_in_a_process_of_its_own_without_tensorflow(model_bundle, tmp_path):
    cells = tmp_path / "cells.npy"
    np.save(cells, inference.draw_cells(50)[:4])
    command = [sys.executable, "-X", "importtime", "-m", "benchmarks.inference", "--side", "bundle"]
    command += ["--model", str(model_bundle), "--cells", str(cells), "--calls", "3", "--batches", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "tensorflow" not in done.stderr
    assert done.stdout.startswith("first answer")


def test_a_bundle_of_another_network_is_not_compared(model_bundle):
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.Input((50, 50, 3)), keras.layers.Conv2D(7, 3)])
    with pytest.raises(UserError, match="is of another network"):
        inference.check_same(model_bundle, model)


def test_the_side_without_a_gate_turns_nothing_away(gated_bundle):
    blank = np.full((1, 50, 50, 3), 255, np.uint8)
    assert inference.of_bundle(gated_bundle, gated=True)(blank).rejected[0] is not None
    assert inference.of_bundle(gated_bundle, gated=False)(blank).rejected == (None,)
