"""Turn away pictures that are no stained red cell, which a network would answer just as confidently.

Fitted on the training cells alone. The picture's shape is judged first, and then three distances: how far
any plain quantity of its look (black around the cell, colour, texture) lies outside the range that
training cells span, and two Mahalanobis distances from the training cells, of those quantities taken
together and of the network's last features (Lee et al. 2018, arXiv:1807.03888, who use one Gaussian a
class: one for all does here). The distances' limits are set on cells that the network did not train on.
"""

import dataclasses
import io
from dataclasses import dataclass

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
_FAR = (f"{_NO_CELL}: colour, texture and outline do not go together", _NO_CELL)

# Brighter than this in any channel counts as part of the cell; lossy copies are not quite black outside.
_BLACK = 16

# The NIH crops' sides go from 46 to 394 px. The public copies are all square, so that training cells
# cannot teach what a crop's shape may be.
_LARGEST_SIDE, _LARGEST_ASPECT = 1000, 2.5

# Ranges are those of all training cells but this share at each end. A cell may lie outside by a tenth of
# the range's width; by more where held-out cells do, as when the training cells are of few patients.
_TAIL, _SLACK = 0.0002, 0.1

# A range has some width even where all training cells are alike, as with no colour outside the cell.
_NARROWEST = 1e-3

# Cells looked at together: as fast as all at once, and a tenth of a gigabyte instead of gigabytes.
_BATCH = 512


@dataclass(frozen=True)
class Gate:
    """What tells cells from other pictures.

    least, most: float32 (q,), the range of each of `quantities`; look_centre (q,) and look_whitening
    (q, q): where training cells lie, and what turns the difference from there into a Mahalanobis
    distance; features_centre (d,), features_whitening (d, d): the same of the network's features;
    limits: float64 (3,), the largest of each of a cell's `distances`.
    """

    least: Singles
    most: Singles
    look_centre: Singles
    look_whitening: Singles
    features_centre: Singles
    features_whitening: Singles
    limits: Floats


def fit(cells: Pixels, features: Singles) -> Gate:
    """Learn how training cells look. Until `limits` gives better ones, only ranges have a limit.

    Args:
        cells: uint8 (n, size, size, 3), the training cells.
        features: float32 (n, d), what the network says of them.
    """
    look = quantities(cells)
    least, most = np.quantile(look, [_TAIL, 1 - _TAIL], axis=0).astype(np.float32)
    return Gate(least, most, *_whiten(look), *_whiten(features), limits(np.zeros((0, 3))))


def distances(gate: Gate, cells: Pixels, features: Singles) -> Floats:
    """How far cells lie from the training cells: float64 (n, 3).

    The first is by how much the plain quantity that fits worst is out of its range, in widths of the range
    (below zero inside); then come the Mahalanobis distances of look and features. Comparable between
    networks: each is in units of its own training cells' spread.
    """
    look = quantities(cells)
    return _distances(gate, _outside(gate, look), look, features)


def limits(held_out: Floats, rejected: float = 0.01) -> Floats:
    """The limits that turn away a share `rejected` of held-out cells, as near as their number allows.

    Args:
        held_out: float64 (n, 3), distances of cells that neither network nor gate was fitted on.

    Returns:
        float64 (3,): ranges leave out half of `rejected` at most; both Mahalanobis distances leave out
        the same share each, so that with the ranges `rejected` are left out. Without held-out cells these
        two have no limit.
    """
    if not len(held_out):
        return np.array([_SLACK, np.inf, np.inf])
    widest = max(_SLACK, float(np.quantile(held_out[:, 0], 1 - rejected / 2, method="higher")))
    # Those out of range are left out whatever the other limits.
    far = np.where(held_out[:, :1] > widest, np.inf, held_out[:, 1:])
    ranks = far.argsort(axis=0, kind="stable").argsort(axis=0)
    worst = np.quantile(ranks.max(axis=1), 1 - rejected, method="higher")
    return np.array([widest, *np.sort(far, axis=0)[int(worst)]])


def with_limits(gate: Gate, found: Floats) -> Gate:
    """`gate` with the limits that `limits` found, float64 (3,)."""
    return dataclasses.replace(gate, limits=found)


def reasons(gate: Gate, cells: Pixels, features: Singles) -> tuple[str | None, ...]:
    """For each cell why it is turned away, or None: uint8 (n, size, size, 3), float32 (n, d)."""
    look = quantities(cells)
    outside = _outside(gate, look)
    beyond = _distances(gate, outside, look, features) > gate.limits
    return tuple(
        _reason(sides > gate.limits[0])
        if out_of_range
        else _FAR[0]
        if far[0]
        else _FAR[1]
        if far[1]
        else None
        for sides, (out_of_range, *far) in zip(outside, beyond, strict=True)
    )


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
    parts = [_quantities(cells[start : start + _BATCH]) for start in range(0, len(cells), _BATCH)]
    return np.concatenate(parts) if parts else np.zeros((0, len(REASONS)), np.float32)


def to_bytes(gate: Gate) -> bytes:
    """`gate` as an .npz file, whose bytes depend on the gate alone."""
    out = io.BytesIO()
    np.savez(out, **{field.name: getattr(gate, field.name) for field in dataclasses.fields(Gate)})
    return out.getvalue()


def from_bytes(content: bytes) -> Gate:
    """Read what `to_bytes` wrote, nothing of it unpickled; UserError where it is no gate of this version."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            gate = Gate(**{field.name: arrays[field.name] for field in dataclasses.fields(Gate)})
    except Exception:
        # NumPy answers foreign bytes with several kinds of exception.
        raise UserError("The bundle's gate is damaged or none: fetch or export the bundle again.") from None
    if gate.least.shape != (len(REASONS),) or gate.limits.shape != (3,):
        raise UserError("The bundle's gate is of another version: use the version that exported it.")
    return gate


def _quantities(cells: Pixels) -> Singles:
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


def _distances(gate: Gate, outside: Singles, look: Singles, features: Singles) -> Floats:
    """`distances` of cells whose quantities are `look`, and lie `outside` their ranges as `_outside` says."""
    far = [
        outside.max(axis=(1, 2)),
        np.linalg.norm((look - gate.look_centre) @ gate.look_whitening, axis=1),
        np.linalg.norm((features - gate.features_centre) @ gate.features_whitening, axis=1),
    ]
    return np.stack(far, axis=1).astype(np.float64)


def _outside(gate: Gate, look: Singles) -> Singles:
    """By how much each quantity is under its range and over it, in the range's widths: float32 (n, q, 2).

    Far below zero on a side that says nothing.
    """
    width = np.maximum(gate.most - gate.least, _NARROWEST)
    far = np.stack([gate.least - look, look - gate.most], axis=2) / width[:, None]
    counts = np.array([[bool(words) for words in sides] for sides in REASONS.values()])
    return np.where(counts, far, np.float32(-1))


def _reason(outside: npt.NDArray[np.bool_]) -> str:
    """What to say of a cell with quantities `outside` their ranges, bool (q, 2): the reason of the first."""
    said = zip(REASONS.values(), outside, strict=True)
    return next(words[int(sides[1])] for words, sides in said if sides.any())


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
