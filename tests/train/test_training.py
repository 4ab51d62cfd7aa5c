"""Training depends on (seed, epoch, cell) alone, stops on a lost loss, and repeats to the byte."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from malaria.errors import UserError
from malaria.params import load_params
from malaria.train import cell_random
from tests.support.toy_cells import toy_cells

SETTINGS = load_params(Path(__file__).parents[2] / "params.yaml").train.model_copy(
    update={"epochs": 2, "batch_size": 16}
)
KEYS = np.arange(50, dtype=np.uint64) * np.uint64(7919)

pytestmark = pytest.mark.filterwarnings(
    # TensorFlow's and Keras's own, raised while they import or trace; until they mend them.
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::UserWarning",
)


@pytest.fixture
def cells():
    return toy_cells()


def test_a_cells_numbers_do_not_depend_on_the_cells_beside_it():
    alone = cell_random.uniform(3, 5, KEYS[7:8], 10)
    assert (cell_random.uniform(3, 5, KEYS, 10)[7] == alone[0]).all()


def test_numbers_differ_by_seed_epoch_and_cell_and_fill_the_unit_interval():
    numbers = [cell_random.uniform(seed, epoch, KEYS, 40) for seed, epoch in ((1, 0), (1, 1), (2, 0))]
    assert len(np.unique(np.stack(numbers))) == 3 * 50 * 40
    assert min(map(np.min, numbers)) >= 0
    assert max(map(np.max, numbers)) < 1
    assert np.mean(numbers) == pytest.approx(0.5, abs=0.02)


def test_without_jitter_augmentation_changes_nothing(cells):
    from malaria.train import augmentation

    still = SETTINGS.model_copy(
        update={"rotation": 0.0, "shear": 0.0, "zoom": 0.0, "flip": False, "colour": 0.0, "brightness": 0.0}
    )
    numbers = cell_random.uniform(1, 0, KEYS[:48], augmentation.NUMBERS)
    same = augmentation.apply(
        cells.images, augmentation.affine(numbers, still, 32), augmentation.gains(numbers, still)
    )
    assert np.abs(np.asarray(same) - cells.images).max() < 1e-3


def test_a_flip_mirrors_and_a_half_turn_turns(cells):
    from malaria.train import augmentation

    numbers = np.full((1, augmentation.NUMBERS), 0.5)
    turned = SETTINGS.model_copy(update={"rotation": 180.0})
    numbers[0, 0], numbers[0, 1:3] = 1.0, 0.5
    result = augmentation.apply(
        cells.images[:1], augmentation.affine(numbers, turned, 32), np.ones((1, 3), np.float32)
    )
    assert np.abs(np.asarray(result)[0, 1:-1, 1:-1] - cells.images[0, ::-1, ::-1][1:-1, 1:-1]).max() < 1


def test_two_trainings_give_the_same_file_to_the_byte(cells, tmp_path):
    from malaria.train import network, training

    hashes = set()
    for run in ("a", "b"):
        trained = training.train(cells, cells, SETTINGS, tmp_path / run)
        network.save(trained.model, tmp_path / f"{run}.keras")
        hashes.add(hashlib.sha256((tmp_path / f"{run}.keras").read_bytes()).hexdigest())
    assert len(hashes) == 1
    assert (tmp_path / "a/plots/metrics/val/auc.tsv").read_text().startswith("step\tauc\n0\t")


def test_a_lost_loss_stops_the_run_and_names_the_step(cells, tmp_path):
    from malaria.train import training

    wild = SETTINGS.model_copy(update={"epochs": 1})
    spoilt = training.Cells(cells.images, cells.rows, cells.labels * np.float32(np.nan), cells.keys)
    with pytest.raises(UserError, match=r"The loss is nan at epoch 0, step 0: lower train.learning_rate"):
        training.train(spoilt, cells, wild, tmp_path / "log")


@pytest.mark.parametrize(
    ("how", "targets", "weights"),
    [("keep", [1, 0, 1], [1, 1, 1]), ("drop", [1, 0, 1], [0, 1, 1]), ("soften", [0.25, 0, 1], [1, 1, 1])],
)
def test_listed_labels_are_kept_left_out_or_softened(cells, how, targets, weights):
    from malaria.train import training

    three = training.Cells(
        cells.images, np.arange(3), np.float32([1, 0, 1]), cells.keys[:3], np.array([True, False, False])
    )
    taught, trusted = training.lessons(three, np.float64([0, 1, 1]), 0, how)
    assert (taught.tolist(), trusted.tolist()) == (targets, weights)


def test_without_a_list_the_networks_own_opinion_counts_after_its_first_epochs(cells):
    from malaria.train import training

    opinion = np.abs(cells.labels - 0.1).astype(np.float64)
    opinion[5] = 1 - opinion[5]
    early, late = (training.lessons(cells, opinion, epoch, "drop")[1] for epoch in (1, 8))
    assert early.all()
    assert np.flatnonzero(late == 0).tolist() == [5]


def test_labels_in_doubt_do_not_choose_the_epoch(cells, tmp_path):
    from malaria.train import training

    half = np.arange(48) < 24
    wrong = training.Cells(
        cells.images, cells.rows, np.where(half, 1 - cells.labels, cells.labels), cells.keys, half
    )
    learning = SETTINGS.model_copy(update={"epochs": 4, "noisy_labels": "drop"})
    trained = training.train(wrong, wrong, learning, tmp_path / "log")
    assert trained.val_auc > 0.9


@pytest.mark.parametrize(("keep", "kept"), [("last", 2), ("best", 0)])
def test_the_last_epoch_or_the_best_on_val_is_kept(cells, tmp_path, keep, kept):
    from malaria.train import training

    # What is learned is the opposite of val's labels: the longer, the worse on val.
    opposite = training.Cells(cells.images, cells.rows, 1 - cells.labels, cells.keys)
    three = SETTINGS.model_copy(update={"epochs": 3, "keep": keep})
    assert training.train(cells, opposite, three, tmp_path / "log").kept_epoch == kept


def test_a_missing_or_damaged_model_is_said_so(tmp_path):
    from malaria.train import network

    with pytest.raises(UserError, match="is missing: run `dvc repro train`"):
        network.load(tmp_path / "model.keras")
    (tmp_path / "model.keras").write_bytes(b"no model")
    with pytest.raises(UserError, match="is damaged or no Keras model"):
        network.load(tmp_path / "model.keras")


def test_the_network_is_the_average_of_what_it_was_while_it_learnt(cells, tmp_path):
    from malaria.train import training

    def trained(averaging):
        settings = SETTINGS.model_copy(update={"averaging": averaging})
        log = tmp_path / str(averaging)
        found = training.train(cells, cells, settings, log)
        return found.model.get_weights()[0], (log / "plots/metrics/train/loss.tsv").read_text()

    (last, losses), (average, same_losses) = trained(0.0), trained(0.9)
    assert losses == same_losses
    assert 1e-4 < np.abs(last - average).max() < 1


def test_an_experiment_may_alter_augmented_batches(cells, tmp_path):
    from malaria.train import training
    from malaria.train.backend import tf

    def swap(images, targets):
        return images, 1 - targets

    learnt = training.train(cells, cells, SETTINGS, tmp_path / "a", alter=swap).model
    plain = training.train(cells, cells, SETTINGS, tmp_path / "b").model
    assert not tf.reduce_all(learnt.weights[0] == plain.weights[0])
