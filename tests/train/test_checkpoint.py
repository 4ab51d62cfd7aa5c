"""Checkpoints: an interrupted training resumes after its last full epoch, and gives the same bytes."""

import shutil
from pathlib import Path

import dvclive
import numpy as np
import pytest

from malaria.params import load_params
from malaria.train.checkpoint import Checkpoint, key

pytestmark = pytest.mark.filterwarnings(
    # TensorFlow and Keras raise these on import and in tracing; remove them once that is fixed there.
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::UserWarning",
)

LISTS = {"history": [[0.5, 0.25]], "weights": [np.eye(2, dtype=np.float32), np.zeros(3)]}
SETTINGS = load_params(Path(__file__).parents[2] / "params.yaml").train.model_copy(
    update={"epochs": 4, "batch_size": 16, "noisy_labels": "soften"}
)


def test_what_was_kept_comes_back_by_name_with_its_types(tmp_path):
    checkpoint = Checkpoint(tmp_path / "deep/kept.npz", "k")
    assert checkpoint.load() == {}
    checkpoint.save(history=[[0.0]])
    checkpoint.save(**LISTS)
    kept = checkpoint.load()
    assert [row.tolist() for row in kept["history"]] == [[0.5, 0.25]]
    assert [array.tolist() for array in kept["weights"]] == [[[1, 0], [0, 1]], [0, 0, 0]]
    assert kept["weights"][0].dtype == np.float32
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["kept.npz"]


def test_another_trainings_checkpoint_is_not_taken(tmp_path):
    Checkpoint(tmp_path / "kept.npz", "k").save(**LISTS)
    assert Checkpoint(tmp_path / "kept.npz", "other").load() == {}


@pytest.mark.parametrize("length", [0, 1, 100, 400, 0.5, 0.9, -1])
def test_a_torn_checkpoint_is_not_taken(tmp_path, length):
    file = tmp_path / "kept.npz"
    Checkpoint(file, "k").save(**LISTS)
    content = file.read_bytes()
    file.write_bytes(content[: int(length * len(content)) if isinstance(length, float) else length])
    assert Checkpoint(file, "k").load() == {}


def test_a_flipped_byte_is_noticed(tmp_path):
    file = tmp_path / "kept.npz"
    Checkpoint(file, "k").save(weights=[np.zeros(1000)])
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert Checkpoint(file, "k").load() == {}


def test_a_checkpoint_cannot_carry_code(tmp_path):
    with pytest.raises(ValueError, match="Object arrays cannot be saved when allow_pickle=False"):
        Checkpoint(tmp_path / "kept.npz", "k").save(thing=[object()])
    assert list(tmp_path.iterdir()) == []
    np.savez(tmp_path / "kept.npz", key=np.array("k"), thing=np.array([object()]))
    assert Checkpoint(tmp_path / "kept.npz", "k").load() == {}


def test_any_other_setting_or_cell_is_another_training():
    cells = np.arange(6, dtype=np.uint8)
    given = [("a", [cells]), ("b", [cells]), ("a", [cells[::-1]]), ("a", [cells.reshape(2, 3)]), ("a", [])]
    given += [("a", [cells.astype(np.int64)]), ("a", [cells, cells[:0]])]
    assert len({key(*parts) for parts in given}) == len(given)
    assert key("a", [cells]) == key("a", [cells.copy()])


def bytes_of(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The result and the folder of a training of four epochs without interruption."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return finish(folder), folder


def finish(folder, settings=SETTINGS):
    """Train to the end on 40 cells of 32 px; the parasitised ones have a dark square."""
    from malaria.train import network, training

    images = np.random.default_rng(0).integers(120, 200, (40, 32, 32, 3)).astype(np.uint8)
    images[1::2, 12:20, 12:20] //= 3
    labels = (np.arange(40) % 2).astype(np.float32)
    cells = training.Cells(images, np.arange(40), labels, np.arange(40) < 3)
    trained = training.train(cells, cells, settings, folder / "log", folder / "kept.npz")
    network.save(trained.model, folder / "model.keras")
    return trained


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_training_cut_off_in_the_middle_ends_with_the_same_bytes(
    undisturbed, tmp_path, monkeypatch, capsys, epoch
):
    expected, folder = undisturbed
    finished = dvclive.Live.next_step

    def cut_off(live):
        finished(live)
        if live.step > epoch:
            raise KeyboardInterrupt

    # Stop after the epoch is logged and before it is saved, so that the log is ahead of the checkpoint.
    with monkeypatch.context() as patch:
        patch.setattr(dvclive.Live, "next_step", cut_off)
        with pytest.raises(KeyboardInterrupt, match=""):
            finish(tmp_path)
    assert not (tmp_path / "model.keras").exists()
    for path in sorted((tmp_path / "log").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()

    trained = finish(tmp_path)
    said = capsys.readouterr().out
    assert f"Going on after epoch {epoch}," in said
    assert said.count("Epoch 1/4") == 1
    assert (trained.kept_epoch, trained.val_auc, trained.epochs) == (
        expected.kept_epoch,
        expected.val_auc,
        expected.epochs,
    )
    assert (tmp_path / "model.keras").read_bytes() == (folder / "model.keras").read_bytes()
    assert bytes_of(tmp_path / "log") == bytes_of(folder / "log")


def test_a_finished_training_that_is_run_again_trains_no_more_and_gives_the_same_bytes(
    undisturbed, tmp_path, capsys
):
    _, folder = undisturbed
    shutil.copy(folder / "kept.npz", tmp_path / "kept.npz")
    finish(tmp_path)
    said = capsys.readouterr().out
    assert "Going on after epoch 4," in said
    assert "Epoch " not in said
    assert (tmp_path / "model.keras").read_bytes() == (folder / "model.keras").read_bytes()
    assert bytes_of(tmp_path / "log") == bytes_of(folder / "log")


def test_a_training_from_other_first_weights_begins_at_the_beginning(undisturbed, tmp_path, capsys):
    _, folder = undisturbed
    start = tmp_path / "start"
    start.mkdir()
    settings = SETTINGS.model_copy(update={"start": str(start)})
    finish(tmp_path, settings)
    first = (tmp_path / "model.keras").read_bytes()
    capsys.readouterr()
    # As if someone puts a network there after the first run was killed.
    shutil.copy(folder / "model.keras", start)
    shutil.rmtree(tmp_path / "log")
    finish(tmp_path, settings)
    assert "Going on" not in capsys.readouterr().out
    assert (tmp_path / "model.keras").read_bytes() != first
