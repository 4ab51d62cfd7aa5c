"""Reject pictures that are not a stained red cell, because a network answers these just as confidently.

The check judges the picture's shape first, and then two distances. The first is how far any plain quantity of
its look (black around the cell, colour, texture) lies outside the range that training cells span. The second
is how much more the picture resembles drawn pictures that are not cells than training cells: the log-odds of
a logistic regression on the quantities, their products, the network's last features, and the Mahalanobis
distances of both from the training cells (Lee et al. 2018, arXiv:1807.03888, who use one Gaussian per class).

A batch of cells may be foreign although each of them passes. `foreign` therefore compares its mean quantities
with those of the patients that the model learned from.
"""

import functools
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from malaria.cells.images import Pixels
from malaria.cells.prepared import LIGHT, Prepared, cell_mask
from malaria.errors import UserError

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]

# The names of `quantities`, in order, and the reasons that people read if one is out of range: (too low, too
# high).
_NO_CELL = "this does not look like a stained red cell"
_NO_STAIN = "no stain to be seen: a picture without colour?"
_OTHER_COLOUR = ("the colour is not that of a stained red cell",) * 2
REASONS = {
    "background": (
        "too little black around the cell: not one cell, cut out on black",
        "no cell to be seen, or nearly none",
    ),
    "corners": ("", "the corners are not black: not one cell, cut out on black"),
    "middle": ("", "black in the middle: several cells, or no cell"),
    "dents": ("", "no rounded outline: several cells, or no cell"),
    "brightness": ("darker than a stained red cell", "brighter than a stained red cell"),
    "red": _OTHER_COLOUR,
    "blue": _OTHER_COLOUR,
    "contrast": ("one even colour: no cell to be seen", "more contrast than in a stained red cell"),
    "red_spread": (_NO_STAIN, "more colours than in a stained red cell"),
    "blue_spread": (_NO_STAIN, "more colours than in a stained red cell"),
    "roughness": ("blurred beyond what can be judged", "rougher than a stained red cell"),
    "grain": ("smoother than any photograph of a cell: a drawing?", "more grain than in a stained red cell"),
    # Checks of earlier bundles have only the quantities above.
    "dyes": (_NO_STAIN, ""),
    "own_stain": ("too bright: the picture is overexposed", "too dark: the picture is underexposed"),
    "own_green": _OTHER_COLOUR,
    "own_red": _OTHER_COLOUR,
}
# Earlier bundles have the first _EARLIER_COUNT quantities. Those after the first _PREPARED_COUNT describe the
# crop before it was prepared. The network does not see how strong stain and light were, nor the white
# balance, so these quantities may lie below (first row of _MARGINS) and above (second row) the training cells
# by this much.
_EARLIER_COUNT, _PREPARED_COUNT, _MARGINS = 12, 13, np.array([[1.5, 0.0, 0.2], [0.6, 0.0, 0.2]])

_UNLIKELY = (f"{_NO_CELL}: colour, texture and outline do not go together", _NO_CELL)

# Grey levels per unit of their logarithm, at a cell's brightness.
_LEVELS_PER_LOG = np.float32(150)

# The share of a NIH/NLM cell's optical density that is in green.
_GREEN_SHARE = 0.43

# The sides of NIH crops range from 46 to 394 px. The public copies are all square, so training cells cannot
# teach which shapes a crop may have.
_LARGEST_SIDE, _LARGEST_ASPECT = 1000, 2.5

# A range is that of all training cells but a share _TAIL at each end. A cell may lie outside it by _SLACK of
# its width, and may have log-odds of up to _MAX_LOG_ODDS of being no cell. With these limits, healthy cells
# of a laboratory that was left out are accepted (docs/model.md).
_TAIL, _SLACK, _MAX_LOG_ODDS = 0.0002, 0.2, 1.0

# Least width of a range, for a quantity that is the same in all training cells, such as black corners.
_MIN_WIDTH = 1e-3

# Cells whose mean decides whether a batch is foreign; and the patients, each with as many cells, that are
# needed to learn this.
_BATCH_CELLS, _MIN_PATIENTS = 50, 10

# Logistic regression: standard deviations at which values are clipped; inverse of the penalty's strength.
_CLIP, _C = 6.0, 0.01

# Radius of the inner disc, in halves of the cell's side.
_DISC_RADIUS = 0.6

# Directions in which a cell's outline is measured: the parts of each across the rows and along a row.
_DIRECTIONS = 24
_ANGLE = np.float32(2 * np.pi / _DIRECTIONS)
_DY, _DX = np.sin(_ANGLE * np.arange(_DIRECTIONS)), np.cos(_ANGLE * np.arange(_DIRECTIONS))

# Cells processed together. For larger arrays the system hands out memory anew each time, which takes longer
# than the arithmetic.
_BATCH = 32


def _empty() -> Singles:
    return np.zeros(0, np.float32)


@dataclass(frozen=True)
class Check:
    """The out-of-distribution check, as `fit` learned it.

    least, most: float32 (q,), the range of each of `quantities`; look_centre, look_scale: float32 (q,), their
    mean and standard deviation; features_centre, features_scale: float32 (d,), the same of the network's
    features; look_whitening, features_whitening: float32 (p, p) and (d, d), by which the difference from the
    centre becomes a Mahalanobis distance; weights: float32 (k,), of the logistic regression, the constant
    last; limits: float64 (2,), the largest that a cell's `distances` may be.

    patients_centre, patients_whitening, patients_limit: the same of the patients' mean quantities, float32
    (p,), (p, p) and (1,); empty if there were too few patients.

    The check of a bundle of an earlier version has no scales and no weights, and limits of three distances:
    of the ranges and of both Mahalanobis distances.
    """

    least: Singles
    most: Singles
    look_centre: Singles
    look_whitening: Singles
    features_centre: Singles
    features_whitening: Singles
    limits: Floats
    look_scale: Singles = field(default_factory=_empty)
    features_scale: Singles = field(default_factory=_empty)
    weights: Singles = field(default_factory=_empty)
    patients_centre: Singles = field(default_factory=_empty)
    patients_whitening: Singles = field(default_factory=_empty)
    patients_limit: Singles = field(default_factory=_empty)


FOREIGN = (
    "These cells do not look like those of any patient that the model learned from: their stain is foreign "
    "to it. Its answers may be far off. Check it on your own labelled cells first."
)


@dataclass
class Looks:
    """The sum of the quantities of a batch's judged cells: `total`, float64 (p,), of `cells` cells."""

    total: Floats = field(default_factory=lambda: np.zeros(_PREPARED_COUNT))
    cells: int = 0

    def add(self, look: Singles) -> None:
        """Add cells with these `quantities`, float32 (n, q)."""
        self.total += look[:, :_PREPARED_COUNT].sum(axis=0, dtype=np.float64)
        self.cells += len(look)


@dataclass(frozen=True)
class Seen:
    """`cells` as networks see them, and a network's `features` of them, float32 (n, d)."""

    cells: Sequence[Prepared]
    features: Singles

    @functools.cached_property
    def look(self) -> Singles:
        """The cells' `quantities`."""
        return quantities(self.cells)


def fit(cells: Seen, others: Seen) -> Check:
    """Learn to tell training cells, both as they are and augmented, from `others`, which are not cells."""
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    look = cells.look.copy()
    least, most = np.quantile(look, [_TAIL, 1 - _TAIL], axis=0).astype(np.float32)
    least[_PREPARED_COUNT:] -= _MARGINS[0]
    most[_PREPARED_COUNT:] += _MARGINS[1]
    # Training cells with every strength of stain and every white balance that the wider ranges allow.
    random = np.random.default_rng(0)
    look[:, _PREPARED_COUNT:] += random.uniform(-_MARGINS[0], _MARGINS[1], (len(look), len(_MARGINS[0])))
    look_centre, look_whitening = _whiten(look[:, :_PREPARED_COUNT])
    features_centre, features_whitening = _whiten(cells.features)
    check = Check(
        least=least,
        most=most,
        look_centre=np.append(look_centre, look[:, _PREPARED_COUNT:].mean(axis=0)),
        look_whitening=look_whitening,
        features_centre=features_centre,
        features_whitening=features_whitening,
        limits=limits(np.zeros((0, 2))),
        look_scale=np.maximum(look.std(axis=0), _MIN_WIDTH),
        features_scale=np.maximum(cells.features.std(axis=0), _MIN_WIDTH),
    )
    terms = np.concatenate([_terms(check, look, cells.features), _terms(check, others.look, others.features)])
    is_cell = np.arange(len(terms)) < len(look)
    centre, spread = terms.mean(axis=0), np.maximum(terms.std(axis=0), 1e-6)
    # With another number of threads BLAS adds up in another order.
    with threadpool_limits(1):
        model = LogisticRegression(C=_C, class_weight="balanced", max_iter=200)
        model.fit((terms - centre) / spread, is_cell)
    weights = model.coef_[0] / spread
    constant = model.intercept_[0] - (weights * centre).sum()
    return replace(check, weights=np.append(weights, constant).astype(np.float32))


def with_patients(check: Check, look: Singles, patient: npt.NDArray[np.str_]) -> Check:
    """`check`, able to recognise a batch of cells that looks like no patient's.

    The limit is how far the farthest patient lies from the others, so that of n patients like these about one
    in n + 1 is called foreign. Patients with fewer than 50 cells do not count; with fewer than 10 patients
    `check` stays as it is.

    Args:
        look, patient: `quantities` and patient of training cells, float32 (n, q) and (n,).
    """
    names, counts = np.unique(patient, return_counts=True)
    patients = [np.flatnonzero(patient == name) for name in names[counts >= _BATCH_CELLS]]
    if len(patients) < _MIN_PATIENTS:
        return check
    samples = [rows[np.linspace(0, len(rows) - 1, _BATCH_CELLS).astype(int)] for rows in patients]
    means = np.stack([look[rows, :_PREPARED_COUNT].mean(axis=0) for rows in samples])
    separations = [_distance(mean, *_whiten(np.delete(means, row, axis=0))) for row, mean in enumerate(means)]
    centre, whitening = _whiten(means)
    limit = np.array([max(separations)], dtype=np.float32)
    return replace(check, patients_centre=centre, patients_whitening=whitening, patients_limit=limit)


def foreign(check: Check, looks: Looks) -> bool | None:
    """Whether a batch looks like no patient that the model learned from.

    None if the batch has fewer than 50 cells, or if the check does not know the patients.
    """
    if looks.cells < _BATCH_CELLS or not len(check.patients_limit):
        return None
    mean = (looks.total / looks.cells).astype(np.float32)
    return _distance(mean, check.patients_centre, check.patients_whitening) > float(check.patients_limit[0])


def _distance(point: Singles, centre: Singles, whitening: Singles) -> float:
    return float(np.linalg.norm((point - centre) @ whitening))


def distances(check: Check, seen: Seen) -> Floats:
    """How far cells lie from the training cells: float64 (n, len(check.limits)).

    The first distance is how far the plain quantity that fits worst lies outside its range, in widths of the
    range (negative inside). The second is the log-odds that the cell is no cell. A check of an earlier
    version has both Mahalanobis distances instead of the second.
    """
    columns = [_outside(check, seen.look).max(axis=(1, 2))]
    if len(check.weights):
        columns.append(-(_terms(check, seen.look, seen.features) @ check.weights[:-1] + check.weights[-1]))
    else:
        columns += _mahalanobis(check, seen.look, seen.features)
    return np.stack(columns, axis=1).astype(np.float64)


def limits(held_out: Floats) -> Floats:
    """The largest distances that a cell may have, float64 (2,).

    A limit is larger than usual if the usual one would reject more than 0.5 % of held-out cells, as with
    training cells of few patients.

    Args:
        held_out: float64 (n, 2), distances of cells that neither network nor check was fitted on.
    """
    usual = np.array([_SLACK, _MAX_LOG_ODDS])
    if not len(held_out):
        return usual
    wider: Floats = np.maximum(usual, np.quantile(held_out, 0.995, axis=0, method="higher"))
    return wider


def reasons(check: Check, seen: Seen) -> tuple[str | None, ...]:
    """The reason why each cell is rejected, or None."""
    count = len(check.least)
    outside = (_outside(check, seen.look) > check.limits[0]).reshape(len(seen.cells), 2 * count)
    unlikely = distances(check, seen)[:, 1:] > check.limits[1:]
    # For each quantity below and above its range, then for the other distances.
    words = [*itertools.chain(*list(REASONS.values())[:count]), *_UNLIKELY]
    return tuple(
        (shape_reason(*cell.shape) if cell.shape else None) or next(itertools.compress(words, faults), None)
        for cell, faults in zip(seen.cells, np.hstack([outside, unlikely]), strict=True)
    )


def shape_reason(height: int, width: int) -> str | None:
    """Why a picture of `height` x `width` px, before it is resized, cannot be a crop of one cell, or None."""
    if max(height, width) > _LARGEST_SIDE:
        return f"a side over {_LARGEST_SIDE:,} px: larger than any crop of one cell"
    if max(height, width) > _LARGEST_ASPECT * min(height, width):
        return f"more than {_LARGEST_ASPECT:g} times as long as wide: not one cell"
    return None


def quantities(cells: Sequence[Prepared]) -> Singles:
    """Plain quantities of how n cells look, float32 (n, len(REASONS)).

    Of the whole picture: background, the share that is black; corners, the share of the four corners that is
    not; middle, the share of the inner disc that is black; dents, the square root of the black area in the
    cell's convex hull over the cell's area.

    Of the pixels that are not black, in grey levels: brightness; red and blue, each minus green; contrast,
    red_spread and blue_spread, the log of the standard deviation of these three; roughness, the log of the
    mean step between neighbours; grain, the log of how much the step changes to the next; dyes, the log of
    the standard deviation of red and blue about the line through green.

    Of the optical densities of the cell's colour before it was prepared: own_stain, the log of their sum;
    own_green, what green has of the sum beyond its usual share; own_red, red minus blue; both divided by the
    sum if that is above 1, so that a strong stain changes neither.
    """
    parts = [_quantities(cells[start : start + _BATCH]) for start in range(0, len(cells), _BATCH)]
    return np.concatenate(parts) if parts else np.zeros((0, len(REASONS)), np.float32)


def to_bytes(check: Check) -> bytes:
    """`check` as an .npz file whose bytes depend on its values only."""
    out = io.BytesIO()
    np.savez(out, **{name: array for name, array in vars(check).items() if len(array)})
    return out.getvalue()


def from_bytes(content: bytes) -> Check:
    """Read what `to_bytes` wrote, without pickles; UserError if it is damaged or of another version."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            check = Check(**arrays)
    except Exception:
        # NumPy raises several kinds of exception for bytes that it does not know.
        raise UserError(
            "The bundle's out-of-distribution check is damaged: fetch or export the bundle again."
        ) from None
    shapes = check.least.shape, check.limits.shape
    if shapes != (((len(REASONS),), (2,)) if len(check.weights) else ((_EARLIER_COUNT,), (3,))):
        raise UserError(
            "The bundle's out-of-distribution check is of another version: use the version that exported it."
        )
    return check


def _quantities(prepared: Sequence[Prepared]) -> Singles:
    cells = np.stack([cell.pixels for cell in prepared])
    density = -np.log(np.array([cell.own for cell in prepared], dtype=np.float32) / LIGHT)
    stain = density.sum(axis=1)
    divisor = np.maximum(stain, 1)
    count, size = cells.shape[:2]
    corners, middle = _corners_and_disc(size)
    # One plane per colour, so that the arithmetic below runs along memory.
    planes = np.ascontiguousarray(cells.transpose(3, 0, 1, 2)).reshape(3, count, -1)
    mask = cell_mask(np.moveaxis(planes, 0, -1))
    inside = mask.astype(np.float32)
    pixels = np.maximum(inside.sum(axis=1), 1)

    # Red minus green, brightness, blue minus green; then their differences from the cell's means.
    axes = planes.astype(np.float32)
    axes[0] -= axes[1]
    axes[2] -= axes[1]
    axes[1] += (axes[0] + axes[2]) / 3
    means = np.einsum("anp,np->an", axes, inside) / pixels
    axes -= means[:, :, None]
    axes *= inside
    spreads = np.sqrt(np.einsum("anp,anp->an", axes, axes) / pixels)
    dyes = _dyes(planes, inside, pixels)

    texture = np.zeros((2, count), dtype=np.float32)
    shape = (count, size, size)
    grey, inside = axes[1].reshape(shape), inside.reshape(shape)
    for values, valid in ((grey, inside), (grey.swapaxes(1, 2), inside.swapaxes(1, 2))):
        steps, pairs = values[:, 1:] - values[:, :-1], valid[:, 1:] * valid[:, :-1]
        changes, triples = steps[:, 1:] - steps[:, :-1], pairs[:, 1:] * pairs[:, :-1]
        texture[0] += np.einsum("nyx,nyx->n", np.abs(steps, out=steps), pairs)
        texture[1] += np.einsum("nyx,nyx->n", np.abs(changes, out=changes), triples)

    columns = [
        1 - pixels / size**2,
        mask[:, corners].mean(axis=1),
        1 - mask[:, middle].mean(axis=1),
        np.sqrt((_hull_area(mask.reshape(shape)) / pixels - 1).clip(0)),
        *means[[1, 0, 2]],
        # Logarithms, because quantities that are never negative have a long upper tail.
        *np.log(np.concatenate([spreads[[1, 0, 2]], texture / (2 * pixels), dyes[None]]) + 0.1),
        np.log(np.maximum(stain, 0.1)),
        (density[:, 1] - _GREEN_SHARE * stain) / divisor,
        (density[:, 0] - density[:, 2]) / divisor,
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _dyes(planes: Pixels, inside: Singles, pixels: Singles) -> Singles:
    """What of red and blue does not follow from green: the residual's standard deviation, (n,)."""
    # In logarithms, because preparing multiplied these. In a picture without colour each follows from green.
    values = _LEVELS_PER_LOG * np.log(np.maximum(planes, 1), dtype=np.float32)
    values -= (np.einsum("anp,np->an", values, inside) / pixels)[:, :, None]
    values *= inside
    covariance = np.einsum("anp,bnp->abn", values, values) / pixels
    green = np.maximum(covariance[1, 1], 1e-6)
    variance = sum(covariance[i, i] - covariance[i, 1] ** 2 / green for i in (0, 2))
    residual: Singles = np.sqrt(np.maximum(variance, 0))
    return residual


@functools.lru_cache
def _corners_and_disc(size: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Indices of the four corners and of the inner disc among a cell's pixels, row by row."""
    edge = max(1, size // 25)
    ends = np.r_[:edge, size - edge : size]
    offsets = np.linspace(-1, 1, size)
    disc = np.hypot(offsets[:, None], offsets) < _DISC_RADIUS
    return (ends[:, None] * size + ends).ravel(), np.flatnonzero(disc)


def _hull_area(mask: npt.NDArray[np.bool_]) -> Singles:
    """The area of each cell's convex hull, px, float32 (n,); `mask` is bool (n, size, size).

    The hull is taken as the polygon of `_DIRECTIONS` sides around it, so it may be a few pixels too large.
    The polygon's area follows from how far the cell reaches in each direction (its support function;
    Schneider, Convex Bodies, 2014).
    """
    size = mask.shape[1]
    first = mask.argmax(axis=2).astype(np.float32)
    last = size - 1 - mask[:, :, ::-1].argmax(axis=2).astype(np.float32)
    rows = np.arange(size, dtype=np.float32)[:, None] * _DY
    reach = np.where(_DX > 0, last[:, :, None], first[:, :, None]) * _DX + rows
    reach[~mask.any(axis=2)] = -size
    # A pixel reaches half its own width farther than its centre.
    support = reach.max(axis=1) + (np.abs(_DY) + np.abs(_DX)) / 2
    neighbours = np.roll(support, 1, axis=1) + np.roll(support, -1, axis=1)
    sides = (neighbours - 2 * support * np.cos(_ANGLE)) / np.sin(_ANGLE)
    area: Singles = (support * sides).sum(axis=1) / 2
    return area


def _terms(check: Check, look: Singles, features: Singles) -> Singles:
    """The inputs of the logistic regression, float32 (n, k - 1)."""
    plain = ((look - check.look_centre) / check.look_scale).clip(-_CLIP, _CLIP)
    learned = ((features - check.features_centre) / check.features_scale).clip(-_CLIP, _CLIP)
    first, second = np.triu_indices(look.shape[1])
    log_distances = np.log(np.maximum(_mahalanobis(check, look, features), _MIN_WIDTH))
    return np.concatenate([plain, plain[:, first] * plain[:, second], learned, log_distances.T], axis=1)


def _mahalanobis(check: Check, look: Singles, features: Singles) -> list[Singles]:
    count = len(check.look_whitening)
    return [
        np.linalg.norm((look[:, :count] - check.look_centre[:count]) @ check.look_whitening, axis=1),
        np.linalg.norm((features - check.features_centre) @ check.features_whitening, axis=1),
    ]


def _outside(check: Check, look: Singles) -> Singles:
    """How far each quantity lies below and above its range, in the range's widths: float32 (n, q, 2).

    -1, which is far inside, on a side that has no reason in REASONS.
    """
    count = len(check.least)
    width = np.maximum(check.most - check.least, _MIN_WIDTH)
    excess = np.stack([check.least - look[:, :count], look[:, :count] - check.most], axis=2) / width[:, None]
    has_reason = np.array(list(REASONS.values()))[:count] != ""
    return np.where(has_reason, excess, np.float32(-1))


def _whiten(values: Singles) -> tuple[Singles, Singles]:
    """The centre of `values`, (n, d), float32 (d,), and a whitening matrix, float32 (d, d).

    The length of (value - centre) @ matrix is the Mahalanobis distance, whatever the scale of each column.
    """
    from sklearn.covariance import ledoit_wolf
    from threadpoolctl import threadpool_limits

    centre, spread = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
    # A feature that is constant in the training cells adds nothing to the distance while it stays so.
    spread = np.where(spread > 1e-6, spread, 1.0)
    # With another number of threads BLAS adds up in another order.
    with threadpool_limits(1, user_api="blas"):
        covariance, _ = ledoit_wolf((values - centre) / spread, assume_centered=True)
        whitening = np.linalg.cholesky(np.linalg.inv(covariance)) / spread[:, None]
    # Adding 0 turns -0.0 into 0.0: the sign of a zero differs from machine to machine.
    return centre.astype(np.float32) + 0, whitening.astype(np.float32) + 0
