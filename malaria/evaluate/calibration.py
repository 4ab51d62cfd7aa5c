"""Temperature scaling: calibrate a network's probabilities with one number.

Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv:1706.04599). It moves no cell across 0.5
and does not change the ranking.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# Closer to 0 or 1 than this, a float32 sigmoid has no digits left.
_EPSILON = 1e-7
_RANGE = (0.05, 20.0)


def apply(p: Floats, temperature: float) -> Floats:
    """The calibrated probabilities of `p`, float64 (n,): sigmoid(logit(p) / temperature)."""
    return 1 / (1 + np.exp(-logit(p) / temperature))


def logit(p: Floats) -> Floats:
    """log(p / (1 - p)) of `p`, float64 (n,), kept finite at 0 and 1."""
    clipped = np.clip(np.asarray(p, dtype=np.float64), _EPSILON, 1 - _EPSILON)
    return np.log(clipped) - np.log1p(-clipped)


def fit_temperature(p: Floats, y: npt.NDArray[np.int64]) -> float:
    """The temperature with the least negative log-likelihood on val, from 0.05 to 20.

    Labels count as uncertain, and more so the fewer there are (Platt 1999): n cells of a class have the
    target (n + 1) / (n + 2). Otherwise ever lower temperatures would fit ever better if 0.5 separates the
    classes without an error; and few cells call for caution.

    Args:
        p: float64 (n,), the network's probabilities.
        y: (n,), 1 where parasitised.

    Returns:
        1.0 if there is nothing to fit: no cells, or cells of one class only.
    """
    from scipy.optimize import minimize_scalar

    if len(np.unique(y)) < 2:
        return 1.0
    positive, logits = y == 1, logit(p)
    cells = np.bincount(positive)
    certainty = (cells + 1) / (cells + 2)
    target = np.where(positive, certainty[1], 1 - certainty[0])

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float((np.logaddexp(0, scaled) - target * scaled).mean())

    minimum = minimize_scalar(loss, bounds=tuple(np.log(_RANGE)), method="bounded", options={"xatol": 1e-6})
    return round(float(np.exp(minimum.x)), 6)
