"""Convert the trained network to LiteRT, which apps run, and check its size and agreement with Keras."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from malaria.cells import images
from malaria.command import without_native_logs
from malaria.errors import UserError
from malaria.evaluate import metrics

# Largest difference between the probabilities of the float32 bundle and those of Keras.
_TOLERANCE = 1e-5

# Largest change that a lower precision may cause: in decisions at 0.5, as a share or as a number of cells,
# whichever is more; and in AUC.
_DECISION_SHARE, _DECISIONS, _AUC_CHANGE = 0.002, 2, 0.001

# Largest size of the exported network.
MAX_PARAMETERS, MAX_BYTES = 300_000, 2**20

# Number of train cells on which quantisation measures the range of activations; more change nothing.
_REPRESENTATIVE = 500

# Operations that int8 leaves in float, so that features, probability and map have more than 256 values. They
# take hardly any time.
_FLOAT_OPERATIONS = ["MEAN", "FULLY_CONNECTED", "LOGISTIC", "MUL", "SUM"]


def convert(model: Any, precision: str, train: Sequence[images.Pixels]) -> bytes:
    """Convert a Keras network to a LiteRT flatbuffer.

    The outputs are P(parasitised), the last features and, if these are means over places, the map of how much
    each place adds to the logit, float32 (n, h, w).

    Args:
        model: from `network.fused`, or another model with a layer named `network.FEATURES`.
        precision: float32, float16 (weights only) or int8 (weights and activations of all but the head);
            input and outputs are always float32.
        train: uint8 (size, size, 3) each; int8 ranges are measured on evenly spaced ones of these cells. The
            same cells give the same bytes.
    """
    from malaria.train import network
    from malaria.train.backend import keras, tf

    features = model.get_layer(network.FEATURES)
    outputs = [model.output, features.output]
    if isinstance(features, keras.layers.GlobalAveragePooling2D):
        # The class-activation map (Zhou et al. 2016, arXiv:1512.04150): without the last unit's bias it sums
        # up to the logit.
        _, height, width, _ = features.input.shape
        weights = model.get_layer(network.LOGIT).get_weights()[0][:, 0]
        outputs.append(keras.ops.sum(features.input * (weights / (height * width)), axis=-1))
    # Named, because Keras numbers models without a name, and the name is written into the file.
    full_model = keras.Model(model.inputs, outputs, name="cells")
    converter = tf.lite.TFLiteConverter.from_keras_model(full_model)
    if precision == "float16":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    # The converter logs every variable that it saves.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), without_native_logs(), warnings.catch_warnings():
        # TensorFlow has deprecated the interpreter that its own quantisation opens.
        warnings.simplefilter("ignore")
        if precision != "int8":
            return bytes(converter.convert())

        def representative() -> Iterator[list[Any]]:
            for row in np.unique(np.linspace(0, len(train) - 1, _REPRESENTATIVE).astype(int)):
                yield [train[row][None].astype(np.float32)]

        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = representative
        # The debugger is TensorFlow's only way to leave some operations in float.
        quantised = tf.lite.experimental.QuantizationDebugger(
            converter=converter,
            debug_dataset=representative,
            debug_options=tf.lite.experimental.QuantizationDebugOptions(denylisted_ops=_FLOAT_OPERATIONS),
        )
        return bytes(quantised.get_nondebug_quantized_model())


def check_size(flatbuffer: bytes, parameters: int) -> None:
    """Raise UserError if the network is larger than an app should have to load."""
    if parameters > MAX_PARAMETERS:
        raise UserError(
            f"The network has {parameters:,} parameters, but at most {MAX_PARAMETERS:,} are exported: "
            "make it narrower in malaria/train/network.py."
        )
    if len(flatbuffer) > MAX_BYTES:
        raise UserError(
            f"The exported network takes {len(flatbuffer):,} bytes, but at most {MAX_BYTES:,} are allowed: "
            "set export.precision to int8 in params.yaml, or make it narrower in malaria/train/network.py."
        )


@dataclass(frozen=True)
class Agreement:
    """How far the exported network is from the trained one, on the same cells.

    `difference`: the largest, in probability; `decisions`: how many of the `cells` fall on the other side of
    0.5; `auc`: the absolute difference in AUC.
    """

    cells: int
    difference: float
    decisions: int
    auc: float


def check_agreement(
    p_bundle: metrics.Floats, p_keras: metrics.Floats, y: metrics.Ints, precision: str
) -> Agreement:
    """Compare two networks' probabilities for cells with the labels `y`.

    Raises:
        UserError: float32 probabilities differ by more than 1e-5; or a lower precision changes the decision
            at 0.5 for more than 0.2 % of the cells (and more than two), or AUC by more than 0.001.
    """
    from sklearn.metrics import roc_auc_score

    # With one class only there is no AUC to compare.
    aucs = [float(roc_auc_score(y, p)) for p in (p_bundle, p_keras)] if len(np.unique(y)) == 2 else [0.0, 0.0]
    agreement = Agreement(
        cells=len(y),
        difference=float(np.abs(p_bundle - p_keras).max(initial=0.0)),
        decisions=int(((p_bundle >= 0.5) != (p_keras >= 0.5)).sum()),
        auc=abs(aucs[0] - aucs[1]),
    )
    if precision == "float32":
        if agreement.difference > _TOLERANCE:
            raise UserError(
                f"The exported network differs from the trained one by {agreement.difference:.2g}, "
                f"more than {_TOLERANCE:g}: run `dvc repro -f export` again, and report this if it stays."
            )
    elif agreement.decisions > max(_DECISIONS, _DECISION_SHARE * len(y)) or agreement.auc > _AUC_CHANGE:
        raise UserError(
            f"At {precision} the exported network decides {agreement.decisions} of {len(y):,} val and test "
            f"cells otherwise than the trained one, and its AUC differs by {agreement.auc:.4f}: set "
            "export.precision in params.yaml to another one (float32 is exact)."
        )
    return agreement
