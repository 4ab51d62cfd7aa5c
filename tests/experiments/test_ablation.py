"""The ablation's networks and altered batches do what their rows say; its table compares with the first."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from malaria import tables
from malaria.cells import packed
from malaria.params import load_params
from tests.conftest import ROOT
from tests.support import project, revision_folders
from tests.support.toy_cells import toy_cells

pytestmark = pytest.mark.filterwarnings(
    # TensorFlow's and Keras's own, raised while they import or trace; until they mend them.
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::UserWarning",
)


def test_the_plain_shape_is_the_pipelines_network():
    from experiments import variants
    from malaria.train import network

    shapes = [weight.shape for weight in variants.shaped()(50).weights]
    assert shapes == [weight.shape for weight in network.build(50).weights]


@pytest.mark.parametrize(
    "name", ["strided", "wide", "excite", "blurred", "residual", "classic", "normalised"]
)
def test_every_shape_answers_with_a_probability_and_may_be_exported(name):
    from experiments import variants
    from malaria.bundle import convert

    model = variants.ROWS[name].build(50)
    p = np.asarray(model(np.full((2, 50, 50, 3), 120, np.float32)))
    assert p.shape == (2, 1)
    assert ((p > 0) & (p < 1)).all()
    assert model.count_params() <= convert.MOST_PARAMETERS


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


def test_a_normalised_stain_is_the_same_under_any_light_and_black_stays_black():
    from experiments import variants

    cell = np.random.default_rng(0).uniform(60, 160, (1, 20, 20, 3)).astype(np.float32)
    cell[:, :5] = 0
    bright, dim = (np.asarray(variants._same_stain(cell * gain)) for gain in ([[[[1.3, 1.2, 1.1]]]], 0.7))
    assert bright == pytest.approx(dim, abs=0.01)
    assert bright[:, 5:].mean(axis=(0, 1, 2)) == pytest.approx(170, abs=5)
    assert (bright[:, :5] == 0).all()


def test_a_robust_loss_is_pulled_less_by_labels_that_the_network_finds_unlikely():
    from experiments import variants
    from malaria.train import training
    from malaria.train.backend import tf

    def pull(loss, p):
        with tf.GradientTape() as tape:
            tape.watch(given := tf.constant([[p]]))
            value = loss(0.0)(tf.constant([[1.0]]), given)
        return -float(tape.gradient(value, given)[0, 0])

    assert pull(variants.Robust, 0.9) == pytest.approx(pull(training.cross_entropy, 0.9), rel=0.2)
    assert pull(variants.Robust, 0.01) < 0.1 * pull(training.cross_entropy, 0.01)
    assert pull(variants.Robust, 0.01) > 0


@pytest.mark.parametrize("name", ["mix_up", "elastic", "rescaled", "robust", "self_taught"])
def test_a_row_with_a_step_of_its_own_trains(name):
    from experiments import ablate, variants
    from malaria.train import network

    settings = load_params(ROOT / "params.yaml").train.model_copy(update={"epochs": 3, "batch_size": 20})
    learnt = ablate._learn(variants.ROWS[name], toy_cells(), toy_cells(), settings)
    p = network.predict(learnt, toy_cells().images)
    assert ((p > 0) & (p < 1)).all()


@pytest.mark.parametrize("what", ["alter", "loss", "teach"])
def test_what_a_row_does_otherwise_reaches_its_training(what):
    from experiments import ablate, variants
    from malaria.train import network, training

    class Contrary(type(training.cross_entropy(0.0))):
        def call(self, y_true, y_pred):
            return super().call(1 - y_true, y_pred)

    contrary = {
        "alter": lambda images, targets: (images, 1 - targets),
        "loss": lambda smoothing: Contrary(label_smoothing=smoothing, reduction="sum"),
        "teach": lambda cells, *_: (1 - cells.labels, np.ones(len(cells.labels), np.float32)),
    }
    settings = load_params(ROOT / "params.yaml").train.model_copy(update={"epochs": 6, "batch_size": 16})
    cells = toy_cells()
    learnt = ablate._learn(variants.Variant("", **{what: contrary[what]}), cells, cells, settings)
    p = network.predict(learnt, cells.images)
    assert p[cells.labels == 1].max() < p[cells.labels == 0].min()


def test_self_distillation_takes_the_networks_own_word_on_labels_in_doubt():
    from experiments import variants

    doubtful = np.arange(48) < 2
    cells, opinion = toy_cells(doubtful), np.full(48, 0.25)
    first, trust = variants.mixed_with_opinion(cells, opinion, 1, "drop")
    assert (first == cells.labels).all()
    assert (trust == ~doubtful).all()
    later, trust = variants.mixed_with_opinion(cells, opinion, 2, "drop")
    assert later == pytest.approx(np.where(doubtful, 0.25, 0.7 * cells.labels + 0.3 * 0.25))
    assert (trust == 1).all()


def test_a_distilled_network_learns_what_its_teachers_say_and_not_the_labels():
    from experiments import ablate, variants
    from malaria.train import network
    from malaria.train.backend import keras

    def contrary(size):
        """A teacher that holds bright cells for parasitised, whatever few epochs tell it."""
        layers, constant = keras.layers, keras.initializers.Constant
        cell = keras.Input((size, size, 3))
        mean = layers.GlobalAveragePooling2D()(cell)
        x = layers.Dense(1, kernel_initializer=constant(1), bias_initializer=constant(-3 * 157))(mean)
        return keras.Model(cell, layers.Activation("sigmoid")(x))

    settings = load_params(ROOT / "params.yaml").train.model_copy(update={"epochs": 6, "batch_size": 16})
    cells = toy_cells()
    learnt = ablate._learn(variants.Variant("", teachers=(contrary,)), cells, toy_cells(), settings)
    p = network.predict(learnt, cells.images)
    assert p[cells.labels == 1].max() < p[cells.labels == 0].min()


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


@pytest.fixture
def packed_cells(tmp_path, monkeypatch):
    """A folder, the current one, with 240 packed cells of 24 patients, and params.yaml with three folds."""
    cells = revision_folders.cells(count=240, patients=24)
    tables.write(cells, tmp_path / "data/cells.csv", tables.CELLS)
    repack(tmp_path, cells, 32)
    for name in ("params.yaml", "data/doubtful.csv", "data/split.csv"):
        shutil.copy(ROOT / name, tmp_path / name)
    project.change(tmp_path, {"split.folds": 3, "split.tolerance": 0.2, "evaluate.resamples": 100})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def repack(folder, cells, size):
    pixels = np.zeros((len(cells), size, size, 3), np.uint8)
    (folder / "data/packed").mkdir(parents=True, exist_ok=True)
    np.save(folder / "data/packed/cells.npy", pixels)
    tables.write(cells, folder / "data/packed/index.csv", tables.INDEX)


def kept(row="recipe", fold=0, epochs=None, share=None):
    """Where the row's fold is kept, as the files in the current folder stand."""
    from experiments import ablate, variants

    settings = ablate._of_row(load_params(), epochs or ablate.EPOCHS, variants.ROWS[row])
    return ablate.kept_in(share or ablate.SHARE, (row, fold, settings), packed.load(Path("data/packed")))


def keep(rows, epochs=None, share=None):
    """Leave folds of `rows` as if they had been trained."""
    cells = revision_folders.cells(count=240, patients=24)
    for row in rows:
        p = revision_folders.predicted(cells, 3.0, seed=len(row))
        judged = cells.assign(p_network=p, p_parasitized=p, p_views=p)
        for fold in range(3):
            tested = judged[judged.index % 3 == fold].assign(fold=fold)
            file = kept(row, fold, epochs, share)
            tables.write(tested, file, {**tables.OUT_OF_FOLD, "p_views": "float64"})


def ablate_with(monkeypatch, *options):
    from experiments import ablate

    monkeypatch.setattr("sys.argv", ["ablate", "--page", "page.md", *options])
    return ablate.main()


@pytest.mark.parametrize("what", ["a label", "the size", "a label in doubt", "the patients' folds", "a seed"])
def test_a_fold_is_trained_anew_where_anything_that_it_hangs_on_is_another(packed_cells, what):
    before = kept()
    assert kept() == before
    cells = revision_folders.cells(count=240, patients=24)
    if what == "a label":
        cells.loc[120, "label"] = "Uninfected" if cells.label[120] == "Parasitized" else "Parasitized"
        repack(packed_cells, cells, 32)
    elif what == "the size":
        repack(packed_cells, cells, 50)
    elif what == "a label in doubt":
        (packed_cells / "data/doubtful.csv").write_text("given_label,file\nUninfected,cell_00001.png\n")
    elif what == "the patients' folds":
        (packed_cells / "data/split.csv").write_text("patient,fold\nP1,0\n")
    else:
        project.change(packed_cells, {"train.seed": 2})
    assert kept() != before


def test_the_page_has_every_row_that_is_done_and_the_recipe_comes_first(packed_cells, monkeypatch):
    (packed_cells / "page.md").write_text("Above\n<!-- ablate: begin -->\n<!-- ablate: end -->\nBelow\n")
    keep(["recipe", "wide", "strided"])
    assert ablate_with(monkeypatch, "--rows", "strided") == 0
    page = (packed_cells / "page.md").read_text().splitlines()
    above, _, _, _, recipe, strided, wide, _, closing, _, below = page
    assert closing.startswith("The mean of these 3 rows")
    assert (above, below) == ("Above", "Below")
    assert recipe.startswith("| the recipe |")
    assert strided.startswith("| a stem of stride 2")
    assert wide.startswith("| wider")
    assert "(" in strided.split("|")[-2]


@pytest.mark.parametrize("option", [("--epochs", "3"), ("--share", "0.25")])
def test_a_run_with_other_epochs_or_another_share_leaves_the_page_alone(
    packed_cells, monkeypatch, capsys, option
):
    page = "<!-- ablate: begin -->\nas it was\n<!-- ablate: end -->\n"
    (packed_cells / "page.md").write_text(page)
    name, value = option
    keep(["recipe", "wide"], **{name[2:]: json.loads(value)})
    assert ablate_with(monkeypatch, "--rows", "wide", *option) == 0
    assert "| wider" in capsys.readouterr().out
    assert (packed_cells / "page.md").read_text() == page


def test_figures_of_the_synthetic_sample_do_not_enter_the_projects_page(packed_cells, monkeypatch, capsys):
    from experiments import ablate

    page = "<!-- ablate: begin -->\nof real cells\n<!-- ablate: end -->\n"
    (packed_cells / "docs").mkdir()
    (packed_cells / "docs/model.md").write_text(page)
    keep(["recipe", "wide"])
    monkeypatch.setattr("sys.argv", ["ablate", "--rows", "wide"])
    assert ablate.main() == 0
    assert "| wider" in capsys.readouterr().out
    assert (packed_cells / "docs/model.md").read_text() == page


def test_twice_the_epochs_are_twice_those_of_the_run_and_an_own_opinion_is_told_no_list(packed_cells):
    from experiments import ablate, variants

    settings, rows = load_params(), variants.ROWS
    assert ablate._of_row(settings, 9, rows["longer"]).train.epochs == 18
    (packed_cells / "data/doubtful.csv").write_text("given_label,file\nUninfected,cell_00001.png\n")
    assert len(ablate._listed(rows["recipe"], settings.train)) == 1
    assert ablate._listed(rows["opinion"], settings.train) == frozenset()


def test_a_run_with_other_epochs_leaves_the_tables_predictions_alone(packed_cells, monkeypatch):
    keep(["recipe", "wide"])
    assert ablate_with(monkeypatch, "--rows", "wide") == 0
    file = packed_cells / "reports/ablation/wide.csv"
    before = file.read_bytes()
    file.write_bytes(before + b"as it was")
    keep(["recipe", "wide"], epochs=3)
    assert ablate_with(monkeypatch, "--rows", "wide", "--epochs", "3") == 0
    assert file.read_bytes() == before + b"as it was"


def test_all_rows_together_are_the_mean_of_their_log_odds():
    from experiments import ablate

    def row(*p):
        return pd.DataFrame(
            {"path": ["a", "b", "c", "d"], "label": ["Uninfected", "Parasitized"] * 2, "p_views": p}
        )

    one, other = row(0.1, 0.4, 0.9, 0.9), row(0.1, 0.8, 0.5, 0.9)
    assert "these 2 rows" in ablate.together({"recipe": one, "wide": other}, frozenset())
    assert "accuracy of 0.7500 and an AUC of 0.75000" in ablate.together(
        {"recipe": one, "wide": other}, frozenset()
    )
    doubted = frozenset({("Uninfected", "c")})
    assert "accuracy of 1.0000 and an AUC of 1.00000" in ablate.together(
        {"recipe": one, "wide": other}, doubted
    )


def test_the_light_network_has_separable_convolutions_in_its_bypasses_too():
    from experiments import variants

    model = variants.ROWS["light"].build(50)
    kinds = [type(layer).__name__ for layer in model.layers]
    # Three whole convolutions and, of the last and both bypasses, the mixing of channels after a filter each.
    assert (kinds.count("DepthwiseConv2D"), kinds.count("Conv2D"), kinds.count("Add")) == (3, 6, 2)
