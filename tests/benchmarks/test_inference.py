"""benchmarks.inference (`make bench-inference`), in short runs."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import by_turns, inference
from malaria.errors import UserError
from tests.support.project import run

ROOT = Path(__file__).parents[2]


def test_ratios_are_medians_over_rounds_of_how_much_less_the_bundle_takes():
    predict = iter((30.0, 40.0, 1000.0))
    rounds = iter((1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0))
    ways = {
        "bundle": lambda: {"ms": next(rounds)},
        "predict": lambda: {"ms": next(rounds) * next(predict)},
        "model(x)": lambda: {"ms": next(rounds) * 3},
    }
    runs = by_turns.measure(ways, 3)
    assert by_turns.medians(runs)["ms"].to_dict() == {"bundle": 2, "predict": 80, "model(x)": 6}
    assert by_turns.ratios(runs, "bundle")["ms"].to_dict() == {"bundle": 1, "predict": 40, "model(x)": 3}


def test_the_bundle_answers_in_a_process_of_its_own_without_tensorflow(model_bundle):
    code = (
        "import json, sys; from pathlib import Path; from benchmarks import inference; "
        "figures = inference.measure('bundle', Path(sys.argv[1]), inference.draw_cells(50)[:4], 3, 1); "
        "assert 'tensorflow' not in sys.modules; print(json.dumps(figures))"
    )
    figures = json.loads(run(sys.executable, "-c", code, str(model_bundle), cwd=ROOT).stdout)
    # Importing the bundle's libraries takes longer than judging a cell.
    assert 1000 * figures["first answer, s"] > figures["one cell, ms"] > 0
    assert figures["a cell of a batch, ms"] > 0


def test_a_command_is_timed_with_what_it_starts_and_a_failure_is_said():
    """by_turns.command waits for all child processes, so it runs in a separate process."""
    child = "import time\nwhile time.process_time() < 0.3: pass"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    code = f"""if True:
        import json, sys
        from benchmarks import by_turns
        print(json.dumps(by_turns.command([sys.executable, "-c", {parent!r}])))
        by_turns.command([sys.executable, "-c", "import sys; sys.exit('no cells')"])
    """
    done = run(sys.executable, "-c", code, cwd=ROOT, ok=False)
    costs = json.loads(done.stdout)
    assert costs["s"] >= 0.3
    assert costs["processor s"] >= 0.3
    assert done.stderr.strip().endswith("ended with status 1: no cells")


def test_a_bundle_of_another_network_is_not_compared(model_bundle):
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.Input((50, 50, 3)), keras.layers.Conv2D(7, 3)])
    with pytest.raises(UserError, match="is of another network"):
        inference.check_same(model_bundle, model)
