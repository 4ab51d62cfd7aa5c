"""The bytes of results depend on `train.threads`, not on the number of cores or the environment."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.long

# Prints hashes of a training, predictions, a conversion and an out-of-distribution check on synthetic cells.
PROGRAM = """
import hashlib, sys, tempfile
from pathlib import Path
from malaria.bundle import convert, ood
from malaria.params import load_params
from malaria.train import backend, network, training
from tests.support.toy_cells import prepared, toy_cells

settings = load_params(Path("params.yaml")).train.model_copy(update={"epochs": 2, "batch_size": 16})
backend.use_threads(settings.threads)
cells = toy_cells()
with tempfile.TemporaryDirectory() as folder:
    model = training.train(cells, cells, settings, Path(folder, "log")).model
    network.save(model, Path(folder, "model.keras"))
    written = Path(folder, "model.keras").read_bytes()
seen = prepared(cells.images)
features = network.keras.Model(model.inputs, model.get_layer(network.FEATURES).output)(cells.images * 1.0)
parts = [
    written,
    network.predict(model, cells.images).tobytes(),
    convert.convert(network.fused(model), "int8", cells.images),
    ood.to_bytes(ood.fit(ood.Seen(seen, features.numpy()), ood.Seen(seen[::-1], 2 * features.numpy()))),
]
print("hashes", *(hashlib.sha256(part).hexdigest()[:16] for part in parts))
"""


def hashes(*before: str, **environment: str) -> list[str]:
    command = [*before, sys.executable, "-c", PROGRAM]
    given = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(line for line in done.stdout.splitlines() if line.startswith("hashes")).split()[1:]


@pytest.fixture(scope="module")
def plain() -> list[str]:
    return hashes()


@pytest.mark.parametrize("threads", ["1", "4"])
def test_the_number_of_threads_in_the_environment_changes_no_byte(plain, threads):
    assert hashes(OMP_NUM_THREADS=threads, OPENBLAS_NUM_THREADS=threads) == plain


@pytest.mark.skipif(shutil.which("taskset") is None, reason="needs taskset, of util-linux")
def test_the_number_of_cores_changes_no_byte(plain):
    assert hashes("taskset", "-c", "0") == plain
