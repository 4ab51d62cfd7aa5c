"""Conversion of the trained network to the bundle's: agreement, size, and reproducible bytes."""

import hashlib

import numpy as np
import pytest

from malaria.errors import UserError

pytestmark = pytest.mark.filterwarnings(
    # TensorFlow and Keras raise these on import and in tracing; remove them once that is fixed there.
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::UserWarning",
)


@pytest.fixture(scope="module")
def cells():
    """64 discs on black, half of them with a dark square: uint8 (64, 32, 32, 3)."""
    random = np.random.default_rng(0)
    y, x = np.meshgrid(np.linspace(-1, 1, 32), np.linspace(-1, 1, 32), indexing="ij")
    colour = random.normal([190, 150, 165], 8, (64, 1, 1, 3)) + random.normal(0, 4, (64, 32, 32, 3))
    images = np.clip(colour * (np.hypot(x, y) < 0.93)[:, :, None], 0, 255).astype(np.uint8)
    images[1::2, 12:20, 12:20] //= 2
    return images


@pytest.fixture(scope="module")
def model():
    from malaria.train import network
    from malaria.train.backend import keras

    keras.utils.set_random_seed(1)
    return network.build(32)


def record_of(flatbuffer, **changes):
    from malaria import bundle, labels
    from malaria.cells import images

    values = {
        "schema_version": 1,
        "name": "malaria-cells",
        "research_use_only": True,
        "synthetic": True,
        "data_source": "sample",
        "input_size": 32,
        "min_side": 16,
        "max_pixels": 10**6,
        "resize": images.RESIZE,
        "labels": labels.LABELS,
        "positive": labels.PARASITIZED,
        "precision": "float32",
        "temperature": 1.0,
        "operating_points": (),
        "hashes": {"network": hashlib.sha256(flatbuffer).hexdigest()},
        "libraries": {},
    }
    return bundle.Record(**{**values, **changes})


@pytest.mark.parametrize(("precision", "most"), [("float32", 1e-5), ("float16", 1e-3), ("int8", 0.05)])
def test_the_bundle_agrees_with_keras_at_every_precision(model, cells, precision, most):
    from malaria import bundle
    from malaria.bundle import convert
    from malaria.train import network

    flatbuffer = convert.convert(model, precision, cells)
    outputs = bundle.open_network(record_of(flatbuffer), flatbuffer).run(cells)
    assert np.abs(outputs.p_network - network.predict(model, cells)).max() < most
    width = model.get_layer(network.FEATURES).output.shape[-1]
    assert (outputs.features.shape, outputs.features.dtype) == ((64, width), np.float32)


@pytest.mark.parametrize(("precision", "most"), [("float32", 1e-4), ("float16", 1e-3), ("int8", 1e-3)])
def test_the_map_sums_to_the_logit_without_its_bias_at_every_precision(model, cells, precision, most):
    from malaria import bundle
    from malaria.bundle import convert
    from malaria.evaluate import calibration
    from malaria.train import network

    bias = np.array([0.7], np.float32)
    whole = as_if_trained(32, 0.5)
    whole.get_layer(network.LOGIT).set_weights([model.get_layer(network.LOGIT).get_weights()[0], bias])
    flatbuffer = convert.convert(network.fused(whole), precision, cells)
    said = bundle.open_network(record_of(flatbuffer), flatbuffer).run(cells)
    assert (said.maps.shape, said.maps.dtype) == ((64, 4, 4), np.float32)
    np.testing.assert_allclose(said.maps.sum((1, 2)) + bias, calibration.logit(said.p_network), atol=most)


def as_if_trained(size: int, least: float):
    """A network with random values in its batch normalisations, with scales from `least` to 1.5."""
    from malaria.train import network

    random = np.random.default_rng(1)
    model = network.build(size)
    for depth in range(1, 5):
        width = network.WIDTHS[depth - 1]
        model.get_layer(f"norm{depth}").set_weights(
            [
                random.uniform(least, 1.5, width),
                random.normal(0, 0.3, width),
                random.normal(0, 0.3, width),
                random.uniform(0.2, 2, width),
            ]
        )
    return model


def test_a_fused_network_says_the_same_without_normalisations(cells):
    from malaria.train import network
    from malaria.train.backend import keras

    model = as_if_trained(32, 0.5)
    fused = network.fused(model)
    assert not any(isinstance(layer, keras.layers.BatchNormalization) for layer in fused.layers)
    np.testing.assert_allclose(network.predict(fused, cells), network.predict(model, cells), atol=1e-6)
    features, wanted = (
        keras.Model(of.inputs, of.get_layer(network.FEATURES).output)(cells.astype(np.float32))
        for of in (fused, model)
    )
    np.testing.assert_allclose(features, wanted, rtol=1e-4, atol=1e-5)


def test_a_network_with_a_negative_scale_is_left_as_it_is():
    from malaria.train import network

    model = as_if_trained(32, -1.5)
    assert network.fused(model) is model


def test_int8_is_a_quarter_of_the_size_and_leaves_fine_probabilities(model, cells):
    from malaria import bundle
    from malaria.bundle import convert

    whole, small = (convert.convert(model, precision, cells) for precision in ("float32", "int8"))
    assert len(small) < 0.35 * len(whole)
    p = bundle.open_network(record_of(small), small).predict(cells)
    # A quantised sigmoid would give only multiples of 1/256.
    assert np.abs(p * 256 - np.round(p * 256)).max() > 0.1


def test_the_same_network_and_cells_give_the_same_int8_bytes(model, cells):
    from malaria.bundle import convert

    assert convert.convert(model, "int8", cells) == convert.convert(model, "int8", cells)


def test_converting_says_nothing(model, cells, capfd):
    from malaria.bundle import convert

    convert.convert(model, "int8", cells)
    assert capfd.readouterr() == ("", "")


def test_int8_ranges_come_from_the_train_cells(model, cells):
    from malaria.bundle import convert

    assert convert.convert(model, "int8", cells) != convert.convert(model, "int8", cells // 3)


@pytest.mark.parametrize(
    ("size", "parameters", "sentence"),
    [
        (2**20 + 1, 10, "takes 1,048,577 bytes, but at most 1,048,576 are allowed"),
        (10, 300_001, "has 300,001 parameters, but at most 300,000 are exported"),
    ],
)
def test_a_network_too_large_to_ship_is_refused(size, parameters, sentence):
    from malaria.bundle import convert

    convert.check_size(bytes(2**20), 300_000)
    with pytest.raises(UserError, match=sentence):
        convert.check_size(bytes(size), parameters)


def test_float32_has_to_be_exact():
    from malaria.bundle import convert

    p, y = np.array([0.2, 0.9]), np.array([0, 1])
    assert convert.check_agreement(p + 5e-6, p, y, "float32").decisions == 0
    with pytest.raises(UserError, match="differs from the trained one by 2e-05"):
        convert.check_agreement(p + 2e-5, p, y, "float32")


def test_a_smaller_precision_may_move_a_cell_in_five_hundred_and_no_more():
    from malaria.bundle import convert

    y = np.arange(2000) % 2
    p = np.where(y == 1, 0.8, 0.2)
    moved = p.copy()
    moved[:4] = np.where(y[:4] == 1, 0.49, 0.51)
    assert convert.check_agreement(moved, p, y, "int8").decisions == 4
    moved[4] = 0.51
    with pytest.raises(UserError, match="decides 5 of 2,000 val and test cells otherwise"):
        convert.check_agreement(moved, p, y, "int8")


def test_a_smaller_precision_may_not_change_the_ranking():
    from malaria.bundle import convert

    random = np.random.default_rng(1)
    y = np.arange(2000) % 2
    p = np.where(y == 1, 0.8, 0.2)
    blurred = np.where(y == 1, random.uniform(0.5, 0.8, 2000), random.uniform(0.2, 0.49, 2000))
    assert convert.check_agreement(blurred, p, y, "int8").auc == 0
    p[:200] = blurred[:200] = np.linspace(0.01, 0.49, 200)
    blurred[:200] = np.where(y[:200] == 1, 0.01, 0.49)
    with pytest.raises(UserError, match=r"set export\.precision in params.yaml to another one"):
        convert.check_agreement(blurred, p, y, "int8")
