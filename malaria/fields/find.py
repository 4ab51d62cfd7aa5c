"""Find the red cells of a field of view of a thin smear: no pixel size, no network, no settings.

What is darker than the field's own background is foreground. A watershed of its distance transform cuts it
into more pieces than there are cells. Neighbours are joined, those first that fit best, and of the tree that
this makes the cut is taken whose parts look most like cells of the field's usual size: convex, not long, and
without a dark or bright seam.
"""

import heapq
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from skimage import feature, filters, measure, segmentation

from malaria.cells.images import Pixels

Floats = npt.NDArray[Any]  # float32 or float64
Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int32]

# What a picture shows; cells are looked for on thin films alone.
THIN_FILM, THICK_FILM = "a thin film", "a thick film"
EMPTY, BLURRED, NO_FIELD = "empty", "out of focus", "no field of red cells"

LEAST_SIDE = 100  # px, of a field

_FIRST_LOOK = 200_000  # px, of the picture in which the cells' size is measured
_DIAMETER = 44  # px, of a cell in the picture that is cut into cells
_LARGEST = 6_000_000  # px, of that picture, which bounds memory
_WINDOW = 48  # px, of the picture in which the background is measured

# In shares of the usual cell's optical density: what is foreground, a bright line between cells, and, of the
# density about it, what belongs to a cell that is darker than usual or out of focus.
_FOREGROUND, _LINE, _LOCAL = 0.3, 0.12, 0.5
_LEVELS = (0.3, 0.45, 0.6, 0.75)  # at which lone cells are looked for

# What a part costs as a cell, a pixel of it: for lack of convexity, for being larger or smaller than usual
# (squared logarithm), for length; a seam costs by its length and its contrast.
CONCAVE, LARGE, SMALL, LONG, BRIGHT, DARK = 6.0, 0.5, 0.7, 0.2, 0.3, 0.3
LEAST, LEAST_CUT = 0.35, 0.5  # of the usual area; of a cell that the border cuts, of which more was outside

_NUCLEUS = 2.2  # times the usual density: nuclei of white cells
_FOCUSED = 4.0  # the least steepness of edges
_WORST = 1.5  # the most that a cell costs, a pixel
_LIKE_CELLS, _LEAST_LIKE = 0.5, 0.35  # the most that it costs, a pixel; share of the foreground
_ROUGH = 0.04  # optical density: how uneven the bare ground of a thick film is
_CONTRAST = 0.04  # optical density: the least that a stained cell has


@dataclass(frozen=True)
class Cell:
    """A red cell: `box` is x, y, width, height in px of the field, `mask` (height, width) where it is.

    `cut` says that the border of the field cuts it, `clumped` that it touches or overlaps another.
    """

    box: tuple[int, int, int, int]
    mask: Mask
    cut: bool
    clumped: bool

    @property
    def area(self) -> int:
        """Area, px."""
        return int(self.mask.sum())

    @property
    def outline(self) -> Floats:
        """Points round the cell, (n, 2), x and y in px of the field."""
        longest = max(measure.find_contours(np.pad(self.mask, 1).astype(float), 0.5), key=len)
        outline: Floats = longest[:, ::-1] - 1 + self.box[:2]
        return outline

    def holds(self, x: float, y: float) -> bool:
        """Whether a point of the field lies in the cell."""
        column, row = int(x) - self.box[0], int(y) - self.box[1]
        return 0 <= column < self.box[2] and 0 <= row < self.box[3] and bool(self.mask[row, column])


@dataclass(frozen=True)
class Field:
    """What a picture shows: `kind`, and on a thin film its cells, from top to bottom.

    `shape` is height and width, px; `background` and `colour` of the usual cell are RGB; `diameter` of the
    usual cell is in px; `focus` is how steep cells' edges are, in usual densities a diameter (out of focus
    under 4).
    """

    kind: str
    shape: tuple[int, int]
    cells: tuple[Cell, ...] = ()
    background: tuple[float, ...] = ()
    colour: tuple[float, ...] = ()
    diameter: float = 0.0
    focus: float = 0.0


def find(field: Pixels) -> Field:
    """Find the red cells of `field`, uint8 (h, w, 3), RGB, each side at least LEAST_SIDE px.

    White cells, platelets and dirt are no cells. A cell of which the border cuts off more than about a half
    is left out.
    """
    height, width = field.shape[:2]
    shape = (height, width)
    scale = min(1.0, (_FIRST_LOOK / (height * width)) ** 0.5)
    density, _ = _density(_resized(field, scale))
    density = ndimage.gaussian_filter(density[:, :, 1], 1)
    usual = _usual(density)
    if usual < _CONTRAST:
        return Field(EMPTY, shape)
    diameter = _usual_diameter(density, usual) / scale
    if not diameter:
        return Field(NO_FIELD, shape)
    scale = min(1.0, _DIAMETER / diameter, (_LARGEST / (height * width)) ** 0.5)
    small = _resized(field, scale)
    colours, background = _density(small)
    size = diameter * scale
    density = ndimage.gaussian_filter(colours[:, :, 1], 0.02 * size)
    pieces = _pieces(*_foreground(density, _FOREGROUND * usual, usual, size), size)
    # Once more, with a threshold for each: what is out of focus has a wide edge.
    typical = ndimage.median(density, pieces, np.arange(pieces.max() + 1))
    limit = np.clip(_LOCAL * typical, _FOREGROUND * usual, 2 * usual)[pieces]
    core, reach = _foreground(density, limit, usual, size)
    pieces = _pieces(core, reach, size)
    area = np.pi / 4 * size**2
    labels, parts = _joined(pieces, density, area)
    white = _white_cells(density, usual, area)
    clumps, _ = ndimage.label(reach)
    focus = _steepness(density, reach, usual) * size
    cells, many = [], np.bincount(clumps.ravel()[np.unique(labels.ravel(), return_index=True)[1]])
    for number, (part, where) in enumerate(zip(parts, ndimage.find_objects(labels), strict=True), 1):
        poor = part.cost(area) > _WORST * part.area
        if where is None or poor or part.area < (LEAST_CUT if part.cut else LEAST) * area:
            continue
        mask = labels[where] == number
        if (white[where] & mask).sum() > 0.4 * part.area:
            continue
        clump = clumps[where][mask].max()
        cells.append(_cell(mask, where, scale, shape, part.cut, bool(many[clump] > 1)))
    kind = _kind(parts, white, reach, density, area, focus)
    inside = labels > 0
    colour = tuple(float(v) for v in np.median(small[inside], axis=0)) if inside.any() else ()
    return Field(
        kind,
        shape,
        tuple(cells) if kind == THIN_FILM else (),
        tuple(float(v) for v in background.mean(axis=(0, 1))),
        colour,
        diameter,
        focus,
    )


def crop(field: Pixels, cell: Cell) -> Pixels:
    """The cell on black, at the field's own size: uint8 (h, w, 3), RGB."""
    x, y, w, h = cell.box
    return field[y : y + h, x : x + w] * cell.mask[:, :, None]


def _resized(pixels: Pixels, scale: float) -> Pixels:
    height, width = pixels.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


def _density(pixels: Pixels) -> tuple[Floats, Floats]:
    """Optical density relative to the field's own background, float32 (h, w, 3), and that background."""
    height, width = pixels.shape[:2]
    small = _resized(pixels, min(1.0, _WINDOW / max(height, width)))
    side = max(small.shape)
    bright = ndimage.percentile_filter(small, 92, size=(side // 3, side // 3, 1)).astype(np.float32)
    smooth = ndimage.gaussian_filter(bright, (side / 12, side / 12, 0))
    planes = (
        Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR)
        for plane in np.moveaxis(smooth, 2, 0)
    )
    background = np.dstack([np.asarray(plane) for plane in planes])
    return np.log(background + 4) - np.log(pixels.astype(np.float32) + 4), background


def _usual(density: Floats) -> float:
    """The median density of cells, which nuclei, far darker ones, do not raise."""
    lowest = filters.threshold_multiotsu(density[::2, ::2], 3, nbins=64)[0]
    usual = np.median(density[density > lowest])
    return float(np.median(density[density > _FOREGROUND * usual]))


def _usual_diameter(density: Floats, usual: float) -> float:
    """Of the cells that lie alone, by area, px; without such of any that have a middle; else 0."""
    areas = []
    for level in _LEVELS:
        labels, _ = ndimage.label(_filled(density > level * usual, 0.02 * density.size))
        parts = _parts(labels, np.bincount(labels.ravel()) >= 40).values()
        areas += [part.area for part in parts if not part.cut and part.solidity > 0.93 and part.length < 1.33]
    if len(areas) >= 3:
        return float(2 * (_median_by_weight(np.array(areas), 1) / np.pi) ** 0.5)
    depth = ndimage.distance_transform_edt(_filled(density > _FOREGROUND * usual, 0.02 * density.size))
    middles = depth[(depth == ndimage.maximum_filter(depth, 9)) & (depth > 4)]
    return 2 * _median_by_weight(middles, 2) if len(middles) else 0.0


def _median_by_weight(values: Floats, power: int) -> float:
    values = np.sort(values)
    weights = np.cumsum(values**power)
    return float(values[np.searchsorted(weights, weights[-1] / 2)])


def _filled(foreground: Mask, largest: float) -> Mask:
    """Fill the holes of cells, which are convex and of at most `largest` px, and no gaps between cells."""
    labels, _ = ndimage.label(~foreground)
    fill = np.zeros(labels.max() + 1, bool)
    for hole, part in _parts(labels, np.bincount(labels.ravel()) < largest).items():
        fill[hole] = not part.cut and (part.area < 0.04 * largest or part.solidity > 0.85)
    filled: Mask = foreground | fill[labels]
    return filled


def _foreground(density: Floats, limit: Floats | float, usual: float, size: float) -> tuple[Mask, Mask]:
    """Foreground without the bright lines between cells, and with what lies near it."""
    largest = 0.35 * np.pi / 4 * size**2
    above = density > limit
    closed = ndimage.grey_closing(density, size=2 * round(0.12 * size) + 1)
    core = ndimage.binary_opening(
        _filled(above & (closed - density < _LINE * usual), largest), _disc(0.06 * size)
    )
    near = ndimage.distance_transform_edt(~core) < 0.1 * size
    return core, core | (_filled(above, largest) & near)


def _disc(radius: float) -> Mask:
    y, x = np.ogrid[-int(radius) - 1 : int(radius) + 2, -int(radius) - 1 : int(radius) + 2]
    disc: Mask = x * x + y * y <= radius * radius + 0.5
    return disc


def _pieces(core: Mask, reach: Mask, size: float) -> Labels:
    """A watershed with a piece for every middle, (h, w), 0 outside; cells go on beyond the border."""
    depth = ndimage.distance_transform_edt(np.pad(core, 1, mode="edge"))[1:-1, 1:-1].astype(np.float32)
    depth = ndimage.gaussian_filter(depth, 0.04 * size)
    apart = max(1, round(0.12 * size))
    middles = feature.peak_local_max(
        depth, min_distance=apart, labels=core.astype(np.int32), exclude_border=False
    )
    markers = np.zeros(core.shape, np.int32)
    markers[tuple(middles.T)] = np.arange(1, len(middles) + 1)
    labels: Labels = segmentation.watershed(-depth, markers, mask=reach).astype(np.int32)
    return labels


@dataclass(frozen=True)
class _Part:
    """A piece, or several joined; `centre` and `scatter` about it (y, x), `hull` its corners in order."""

    area: float
    centre: Floats
    scatter: Floats
    hull: Floats
    cut: bool
    labels: tuple[int, ...]

    @cached_property
    def solidity(self) -> float:
        """Area over that of the convex hull."""
        y, x = self.hull.T
        hull = 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))
        return float(min(1.0, self.area / hull))

    @cached_property
    def length(self) -> float:
        """Long axis over short axis, of the ellipse with the same moments."""
        short, long = np.linalg.eigvalsh(self.scatter / self.area + np.eye(2) / 12)
        return float((long / short) ** 0.5)

    def joined(self, other: "_Part") -> "_Part":
        area = self.area + other.area
        apart = self.centre - other.centre
        return _Part(
            area,
            (self.area * self.centre + other.area * other.centre) / area,
            self.scatter + other.scatter + np.outer(apart, apart) * (self.area * other.area / area),
            _hull(np.concatenate([self.hull, other.hull])),
            self.cut or other.cut,
            self.labels + other.labels,
        )

    def cost(self, usual_area: float) -> float:
        """How little it looks like a cell: 0 is perfect."""
        larger = np.log(self.area / usual_area)
        cost = CONCAVE * max(1 - self.solidity - 0.04, 0) + LARGE * max(larger - 0.2, 0) ** 2
        if not self.cut:
            cost += SMALL * max(-larger - 0.2, 0) ** 2 + LONG * max(np.log(self.length) - 0.35, 0) ** 2
        return float(self.area * cost)


def _hull(points: Floats) -> Floats:
    try:
        corners: Floats = points[ConvexHull(points).vertices]
    except (QhullError, ValueError):
        return points
    return corners


def _parts(labels: Labels, wanted: Mask | None = None) -> dict[int, _Part]:
    """The parts with these labels, of those alone that `wanted`, by label, says."""
    height, width = labels.shape
    count = labels.max() + 1
    chosen = np.ones(count, bool) if wanted is None else wanted.copy()
    chosen[0] = False
    at = np.flatnonzero(chosen[labels.ravel()])
    if not len(at):
        return {}
    of = labels.ravel()[at]
    y, x = np.divmod(at, width)
    areas = np.bincount(of, minlength=count)

    def total(values: Floats) -> Floats:
        return np.bincount(of, values, count)

    centres = np.stack([total(y), total(x)], 1) / np.maximum(areas, 1)[:, None]
    dy, dx = y - centres[of, 0], x - centres[of, 1]
    scatters = np.stack([total(dy * dy), total(dx * dy), total(dx * dy), total(dx * dx)], 1).reshape(-1, 2, 2)
    cut = total(((y == 0) | (x == 0) | (y == height - 1) | (x == width - 1)).astype(float)) > 0
    # A hull needs no more than the ends of runs of pixels.
    first = np.flatnonzero(np.diff(of, prepend=0) | (np.diff(at, prepend=-2) != 1) | np.diff(y, prepend=-1))
    last = np.append(first[1:], len(at)) - 1
    order = np.argsort(of[first], kind="stable")
    ends = [
        np.stack([y[i] + down, x[i] + across], 1)
        for i, across in ((first, -0.5), (last, 0.5))
        for down in (-0.5, 0.5)
    ]
    corners = np.stack(ends, 1)[order]
    bounds = np.searchsorted(of[first][order], np.arange(count + 1))
    return {
        k: _Part(
            float(areas[k]),
            centres[k],
            scatters[k],
            _hull(corners[bounds[k] : bounds[k + 1]].reshape(-1, 2)),
            bool(cut[k]),
            (k,),
        )
        for k in np.unique(of).tolist()
    }


def _seams(pieces: Labels, density: Floats, usual_area: float) -> dict[int, dict[int, float]]:
    """What joining any two neighbours costs for the dark or bright line between them."""
    count = int(pieces.max()) + 1
    pairs, values = [], []
    for one, other in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        a, b = pieces[one], pieces[other]
        meet = (a != b) & (a > 0) & (b > 0)
        pairs.append(np.minimum(a[meet], b[meet]).astype(np.int64) * count + np.maximum(a[meet], b[meet]))
        values.append((density[one][meet] + density[other][meet]) / 2)
    keys, where, length = np.unique(np.concatenate(pairs), return_inverse=True, return_counts=True)
    means = np.bincount(where, np.concatenate(values)) / length
    typical = ndimage.median(density, pieces, np.arange(count))
    near: dict[int, dict[int, float]] = {k: {} for k in range(1, count)}
    for key, mean, pixels in zip(keys.tolist(), means.tolist(), length.tolist(), strict=True):
        a, b = divmod(key, count)
        contrast = 2 * mean / (typical[a] + typical[b])
        seam = BRIGHT * max(0.9 - contrast, 0) + DARK * max(contrast - 1.1, 0)
        near[a][b] = near[b][a] = float(seam * pixels * usual_area**0.5)
    return near


def _joined(pieces: Labels, density: Floats, usual_area: float) -> tuple[Labels, list[_Part]]:
    """Join pieces to cells: labels (h, w) and the part that each label stands for, from 1."""
    parts = _parts(pieces)
    near = _seams(pieces, density, usual_area)
    alone = {k: part.cost(usual_area) for k, part in parts.items()}
    best: dict[int, tuple[float, tuple[_Part, ...]]] = {k: (alone[k], (part,)) for k, part in parts.items()}
    seams = dict.fromkeys(parts, 0.0)
    stamp = dict.fromkeys(parts, 0)
    heap: list[tuple[float, int, int, int, int]] = []

    def consider(a: int, b: int) -> None:
        if parts[a].area + parts[b].area < 2.5 * usual_area:
            cost = parts[a].joined(parts[b]).cost(usual_area) + seams[a] + seams[b] + near[a][b]
            heapq.heappush(heap, (cost - alone[a] - alone[b], a, b, stamp[a], stamp[b]))

    for a in near:
        for b in near[a]:
            if a < b:
                consider(a, b)
    while heap:
        gain, a, b, when_a, when_b = heapq.heappop(heap)
        if stamp.get(a) != when_a or stamp.get(b) != when_b:
            continue
        cost, apart = gain + alone[a] + alone[b], best[a][0] + best[b][0]
        parts[a] = parts[a].joined(parts[b])
        best[a] = (cost, (parts[a],)) if cost <= apart else (apart, best[a][1] + best[b][1])
        seams[a] += seams[b] + near[a].pop(b)
        alone[a] = cost
        stamp[a] += 1
        del stamp[b], parts[b]
        for k, seam in near.pop(b).items():
            if k != a:
                del near[k][b]
                near[a][k] = near[k][a] = near[a].get(k, 0.0) + seam
        for k in near[a]:
            consider(a, k)
    cells = [part for k in parts for part in best[k][1]]
    table = np.zeros(pieces.max() + 1, np.int32)
    for number, part in enumerate(cells, 1):
        table[list(part.labels)] = number
    return table[pieces], cells


def _white_cells(density: Floats, usual: float, usual_area: float) -> Mask:
    """Where nuclei of white cells are, (h, w): dark, in one piece, and nearly as large as a red cell."""
    labels, _ = ndimage.label(ndimage.binary_opening(density > _NUCLEUS * usual, iterations=2))
    areas = np.bincount(labels.ravel())
    large = (areas > 0.85 * usual_area) & (areas < 6 * usual_area)
    large[0] = False
    nuclei: Mask = large[labels]
    return nuclei


def _steepness(density: Floats, reach: Mask, usual: float) -> float:
    """How much of the usual density edges rise in a pixel."""
    edge = reach & ~ndimage.binary_erosion(reach, iterations=3, border_value=1)
    slope = ndimage.gaussian_gradient_magnitude(density, 1)
    return float(np.median(slope[edge]) / usual) if edge.any() else 0.0


def _kind(
    parts: list[_Part], white: Mask, reach: Mask, density: Floats, usual_area: float, focus: float
) -> str:
    """What the picture is, by its parts: most of a thin film's foreground looks like cells in focus."""
    like_cells = sum(part.area for part in parts if part.cost(usual_area) < _LIKE_CELLS * part.area)
    bare = density[~ndimage.binary_dilation(reach, iterations=4)]
    rough = float(np.median(np.abs(bare - np.median(bare)))) if len(bare) else 0.0
    if like_cells < _LEAST_LIKE * reach.sum():
        return THICK_FILM if ndimage.label(white)[1] >= 3 else NO_FIELD
    if rough > _ROUGH and reach.mean() < 0.25:
        return THICK_FILM
    return THIN_FILM if focus >= _FOCUSED else BLURRED


def _cell(
    mask: Mask, where: tuple[slice, slice], scale: float, shape: tuple[int, int], cut: bool, clumped: bool
) -> Cell:
    """A cell of the small picture in px of the field."""
    rows, columns = where
    top, left = round(rows.start / scale), round(columns.start / scale)
    bottom, right = (min(round(s.stop / scale), side) for s, side in zip(where, shape, strict=True))
    small = Image.fromarray(mask.astype(np.uint8) * 255)
    large = np.asarray(small.resize((right - left, bottom - top), Image.Resampling.BILINEAR)) >= 128
    return Cell((left, top, right - left, bottom - top), large, cut, clumped)
