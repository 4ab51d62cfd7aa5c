"""Training on several devices, or in mixed precision, agrees with training on one device in float32."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from malaria.params import load_params

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.filterwarnings(
    # TensorFlow and Keras raise these on import and in tracing; remove them once that is fixed there.
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::UserWarning",
)


def train(folder: Path, distribute: str) -> None:
    """Train four epochs on 65 cells of 32 px in batches of 16; write model.keras and p.npy to `folder`."""
    from malaria.train import network, training

    images = np.random.default_rng(0).integers(120, 200, (65, 32, 32, 3)).astype(np.uint8)
    images[1::2, 12:20, 12:20] //= 3
    labels = (np.arange(65) % 2).astype(np.float32)
    cells = training.Cells(images, np.arange(65), labels)
    settings = load_params(ROOT / "params.yaml").train.model_copy(
        update={"epochs": 4, "batch_size": 16, "distribute": distribute}
    )
    trained = training.train(cells, cells, settings, folder / "log")
    network.save(trained.model, folder / "model.keras")
    np.save(folder / "p.npy", network.predict(trained.model, images))


def curve(folder: Path) -> np.ndarray:
    return np.loadtxt(folder / "log/plots/metrics/train/loss.tsv", skiprows=1, usecols=1)


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    """The folder of a training on one device."""
    folder = tmp_path_factory.mktemp("one")
    train(folder, "none")
    return folder


# The processor must be divided before TensorFlow starts.
TWO_DEVICES = """
import sys
from pathlib import Path
from malaria.train.backend import tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tests.train.test_devices import train
train(Path(sys.argv[1]), sys.argv[2])
"""


def on_two(folder: Path, distribute: str, onednn: str) -> subprocess.CompletedProcess[str]:
    """Run `train` in a process whose CPU is divided into two logical devices."""
    folder.mkdir()
    command = [sys.executable, "-c", TWO_DEVICES, str(folder), distribute]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_ENABLE_ONEDNN_OPTS": onednn}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.long
def test_two_devices_have_the_loss_curve_of_one_at_the_same_batch(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, distribute in ((one, "none"), (two, "mirrored")):
        done = on_two(folder, distribute, "0")
        assert done.returncode == 0, done.stdout + done.stderr
        assert ("Training on 2 x CPU, float32" in done.stdout) == (distribute == "mirrored")
    # The only difference is that sums over two parts are rounded differently, which grows with each step.
    first, *later = curve(two) / curve(one)
    assert first == pytest.approx(1, abs=1e-5)
    assert later == pytest.approx([1, 1, 1], abs=5e-3)
    assert np.load(two / "p.npy") == pytest.approx(np.load(one / "p.npy"), abs=5e-3)


def test_a_divided_processor_is_refused_with_kernels_that_cannot_train_on_it(tmp_path):
    done = on_two(tmp_path / "two", "mirrored", "1")
    assert "UserError: train.distribute is mirrored, but TensorFlow's oneDNN kernels" in done.stderr


def test_mirrored_on_one_device_gives_the_bytes_of_none_and_says_so(one, tmp_path, capsys):
    train(tmp_path, "mirrored")
    assert "train.distribute is mirrored, but there is one device here" in capsys.readouterr().out
    assert (tmp_path / "model.keras").read_bytes() == (one / "model.keras").read_bytes()


@pytest.mark.long
def test_where_a_gpu_is_training_is_in_mixed_precision_and_the_model_in_float32(
    one, tmp_path, monkeypatch, capsys
):
    from malaria.train import network
    from malaria.train.backend import tf

    # The CPU stands for a GPU.
    listed = tf.config.list_logical_devices("CPU")
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda _: listed)
    train(tmp_path, "none")
    assert "Training on 1 x GPU, mixed_float16" in capsys.readouterr().out
    assert curve(tmp_path) == pytest.approx(curve(one), rel=0.05)
    layers = network.load(tmp_path / "model.keras").layers
    assert {layer.compute_dtype for layer in layers} == {"float32"}


def test_keras_and_tensorflow_come_from_where_they_are_set_up():
    plain = re.compile(r"^ *(import|from) (keras|tensorflow)\b", re.MULTILINE)
    files = [
        file for folder in ("malaria", "stages", "experiments") for file in (ROOT / folder).rglob("*.py")
    ]
    assert [file.name for file in files if plain.search(file.read_text())] == ["backend.py"]
