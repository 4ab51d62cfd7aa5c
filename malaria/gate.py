"""Turn away pictures that are no stained red cell, which a network would answer just as confidently.

Fitted on the training cells alone, in three layers: the picture's shape; plain quantities of its look
(black around the cell, colour, texture), each within the range that training cells span; and two
Mahalanobis distances from the training cells, of those quantities taken together and of the network's
last features (Lee et al. 2018, arXiv:1807.03888, who use one Gaussian a class: one for all does here).
The distances' limits are set on cells that the network did not train on.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from malaria.errors import UserError
from malaria.images import Pixels

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]

# What `quantities` gives, in its order, and what a person is told where one is out of range:
# (too little, too much).
_NO_CELL = "this does not look like a stained red cell"
REASONS = {
    "background": (
        "too little black around the cell: not one cell, cut out on black",
        "nearly all black: no cell to be seen",
    ),
    "corners": ("", "the corners are not black: not one cell, cut out on black"),
    "gaps": ("", "black gaps inside: several cells, or no cell"),
    "brightness": ("darker than a stained red cell", "brighter than a stained red cell"),
    "red": ("the colour is not that of a stained red cell",) * 2,
    "blue": ("the colour is not that of a stained red cell",) * 2,
    "contrast": ("one even colour: no cell to be seen", "more contrast than in a stained red cell"),
    "red_spread": (
        "no stain to be seen: a picture without colour?",
        "more colours than in a stained red cell",
    ),
    "blue_spread": (
        "no stain to be seen: a picture without colour?",
        "more colours than in a stained red cell",
    ),
    "roughness": ("blurred beyond what can be judged", "rougher than a stained red cell"),
}
_FAR = {0: f"{_NO_CELL}: colour, texture and outline do not go together", 1: _NO_CELL}

# Brighter than this in any channel counts as part of the cell; lossy copies are not quite black outside.
_BLACK = 16

# The NIH crops' sides go from 46 to 394 px. The public copies are all square, so that training cells
# cannot teach what a crop's shape may be.
_LARGEST_SIDE, _LARGEST_ASPECT = 1000, 2.5

# Ranges are those of all training cells but this share at each end, and wider by a tenth of the span.
_TAIL, _SLACK = 0.0002, 0.1


@dataclass(frozen=True)
class Gate:
    """What tells cells from other pictures.

    least, most: float32 (q,), the range of each of `quantities`; look_centre (q,) and look_whitening
    (q, q): where training cells lie, and what turns the difference from there into a Mahalanobis
    distance; features_centre (d,), features_whitening (d, d): the same of the network's features;
    limits: float64 (2,), the largest distance of a cell in each.
    """

    least: Singles
    most: Singles
    look_centre: Singles
    look_whitening: Singles
    features_centre: Singles
    features_whitening: Singles
    limits: Floats


def fit(cells: Pixels, features: Singles) -> Gate:
    """Learn how training cells look. Its limits are infinite until `limits` gives some.

    Args:
        cells: uint8 (n, size, size, 3), the training cells.
        features: float32 (n, d), what the network says of them.
    """
    look = quantities(cells)
    least, most = np.quantile(look, [_TAIL, 1 - _TAIL], axis=0)
    slack = _SLACK * (most - least)
    return Gate(
        (least - slack).astype(np.float32),
        (most + slack).astype(np.float32),
        *_whiten(look),
        *_whiten(features),
        np.full(2, np.inf),
    )


def distances(gate: Gate, cells: Pixels, features: Singles) -> Floats:
    """How far cells lie from the training cells: float64 (n, 2), of their look and of their features.

    Infinite where a plain quantity alone is out of range. Comparable between networks: each distance is
    in units of its own training cells' spread.
    """
    return _distances(gate, quantities(cells), features)


def limits(held_out: Floats, rejected: float = 0.01) -> Floats:
    """The limits that turn away a share `rejected` of held-out cells, as near as their number allows.

    Args:
        held_out: float64 (n, 2), distances of cells that neither network nor gate was fitted on.

    Returns:
        float64 (2,): both limits leave out the same share on their own, together `rejected`.
    """
    if not len(held_out):
        return np.full(2, np.inf)
    ranks = held_out.argsort(axis=0, kind="stable").argsort(axis=0)
    worst = np.quantile(ranks.max(axis=1), 1 - rejected, method="higher")
    found: Floats = np.sort(held_out, axis=0)[int(worst)]
    return found


def with_limits(gate: Gate, found: Floats) -> Gate:
    """`gate` with the limits that `limits` found, float64 (2,)."""
    return dataclasses.replace(gate, limits=found)


def reasons(gate: Gate, cells: Pixels, features: Singles) -> tuple[str | None, ...]:
    """For each cell why it is turned away, or None: uint8 (n, size, size, 3), float32 (n, d)."""
    look = quantities(cells)
    outside = _outside(gate, look)
    beyond = _distances(gate, look, features) > gate.limits
    if not outside.any() and not beyond.any():
        return (None,) * len(cells)
    return tuple(_reason(*verdicts) for verdicts in zip(outside, beyond, strict=True))


def shape_reason(height: int, width: int) -> str | None:
    """Why a picture of `height` x `width` px, before it is resized, can be no crop of one cell, or None."""
    if max(height, width) > _LARGEST_SIDE:
        return f"a side over {_LARGEST_SIDE:,} px: larger than any crop of one cell"
    if max(height, width) > _LARGEST_ASPECT * min(height, width):
        return f"more than {_LARGEST_ASPECT:g} times as long as wide: not one cell"
    return None


def quantities(cells: Pixels) -> Singles:
    """Plain quantities of how cells look, float32 (n, len(REASONS)), of uint8 (n, size, size, 3).

    background: share that is black; corners: share of the four corners that is not; gaps: black between
    parts of the cell in its rows and columns, over the cell's area, square root; then of the pixels that
    are not black: brightness; red, blue: over green; contrast and spread: log of the standard deviation of
    brightness, of red over green and of blue over green; roughness: log of the mean step between
    neighbours. Brightness and colours in grey levels.
    """
    count, size = cells.shape[:2]
    planes = np.ascontiguousarray(cells.transpose(0, 3, 1, 2))
    part = np.maximum(np.maximum(planes[:, 0], planes[:, 1]), planes[:, 2]) > _BLACK
    area = np.maximum(part.sum(axis=(1, 2)), 1).astype(np.float32)
    edge = max(1, size // 25)
    ends = np.r_[:edge, size - edge : size]
    corners = part[:, ends[:, None], ends].mean(axis=(1, 2))
    gaps = (_spanned(part) + _spanned(part.transpose(0, 2, 1))) / 2 - part.sum(axis=(1, 2))

    inside = planes * part[:, None].astype(np.float32)
    mean = inside.sum(axis=(2, 3)) / area[:, None]
    inside -= mean[:, :, None, None]
    inside *= part[:, None]
    flat = inside.reshape(count, 3, size * size)
    covariance = flat @ flat.transpose(0, 2, 1) / area[:, None, None]
    red, blue = np.array([[1, -1, 0], [0, -1, 1]], dtype=np.float32)
    brightness = np.full(3, 1 / 3, dtype=np.float32)
    spreads = [
        np.sqrt(np.einsum("i,nij,j->n", axis, covariance, axis).clip(0)) for axis in (brightness, red, blue)
    ]
    grey = inside.sum(axis=1) / 3
    steps = [
        (np.abs(np.diff(grey, axis=axis)) * both).sum(axis=(1, 2))
        for axis, both in ((1, part[:, 1:] & part[:, :-1]), (2, part[:, :, 1:] & part[:, :, :-1]))
    ]
    columns = [
        1 - part.mean(axis=(1, 2)),
        corners,
        np.sqrt(gaps.clip(0) / area),
        mean @ brightness,
        mean @ red,
        mean @ blue,
        *(np.log(spread + 0.1) for spread in spreads),
        np.log((steps[0] + steps[1]) / (2 * area) + 0.1),
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def save(gate: Gate, path: Path) -> None:
    """Write `gate` as an .npz file whose bytes depend on the gate alone."""
    np.savez(path, **{field.name: getattr(gate, field.name) for field in dataclasses.fields(Gate)})


def load(path: Path) -> Gate:
    """Read a gate that `save` wrote; nothing in it is unpickled.

    Raises:
        UserError: the file is damaged or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            gate = Gate(**{field.name: arrays[field.name] for field in dataclasses.fields(Gate)})
    except Exception:
        # NumPy answers foreign bytes with several kinds of exception.
        raise UserError(f"{path} is damaged or no gate: fetch or export the bundle again.") from None
    if gate.least.shape != (len(REASONS),) or gate.limits.shape != (2,):
        raise UserError(f"{path} is a gate of another version: fetch or export the bundle again.")
    return gate


def _distances(gate: Gate, look: Singles, features: Singles) -> Floats:
    far = np.stack(
        [
            np.linalg.norm((look - gate.look_centre) @ gate.look_whitening, axis=1),
            np.linalg.norm((features - gate.features_centre) @ gate.features_whitening, axis=1),
        ],
        axis=1,
    ).astype(np.float64)
    far[_outside(gate, look).any(axis=1)] = np.inf
    return far


def _reason(outside: npt.NDArray[np.int8], beyond: npt.NDArray[np.bool_]) -> str | None:
    """The first plain reason; else that of the distances; else none."""
    for (too_little, too_much), side in zip(REASONS.values(), outside, strict=True):
        if side:
            return too_much if side > 0 else too_little
    return next((_FAR[which] for which in (0, 1) if beyond[which]), None)


def _outside(gate: Gate, look: Singles) -> npt.NDArray[np.int8]:
    """-1 where a quantity is under its range, 1 where over, else 0: int8 (n, q)."""
    return (look > gate.most).astype(np.int8) - (look < gate.least).astype(np.int8)


def _whiten(values: Singles) -> tuple[Singles, Singles]:
    """Centre, float32 (d,), and a matrix, float32 (d, d), so that the length of (value - centre) @ matrix
    is the Mahalanobis distance, whatever the scale of each column.
    """
    from sklearn.covariance import ledoit_wolf

    centre, spread = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
    # A feature that never fires says nothing while it stays so.
    spread = np.where(spread > 1e-6, spread, 1.0)
    covariance, _ = ledoit_wolf((values - centre) / spread, assume_centered=True)
    whitening = np.linalg.cholesky(np.linalg.inv(covariance)) / spread[:, None]
    return centre.astype(np.float32), whitening.astype(np.float32)


def _spanned(part: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Pixels from the first to the last of the cell in each row, summed: int64 (n,)."""
    size = part.shape[2]
    width = size - part.argmax(axis=2) - part[:, :, ::-1].argmax(axis=2)
    spanned: npt.NDArray[np.int64] = (width * part.any(axis=2)).sum(axis=1)
    return spanned
