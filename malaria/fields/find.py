"""Find the red cells of a field of view of a thin smear, without pixel size, network or settings.

Foreground is what is darker than the field's own background. Every edge of a cell, even one that lies on
another cell, votes for the places about a radius inward of it. The votes meet in the middles of cells, from
which a watershed divides the foreground.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage
from scipy.spatial import ConvexHull
from skimage import filters, measure, segmentation

from malaria.cells import images
from malaria.errors import UserError

Floats = npt.NDArray[Any]  # float32 or float64
Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int32]
Integers = npt.NDArray[np.int_]
Shape = tuple[int, int]  # height and width, px

# What a picture shows. Cells are returned for thin films only.
THIN_FILM, THICK_FILM = "a thin film", "a thick film"
EMPTY, BLURRED, NO_FIELD = "empty", "out of focus", "no field of red cells"

_LIMITS = images.Limits(min_side=100, max_pixels=50_000_000)  # of a field

_FIRST_PIXELS = 200_000  # pixels of the picture in which the cells' size is measured
_DIAMETER = 44  # px, of a cell in the picture that is cut into cells
_MAX_PIXELS = 6_000_000  # pixels of that picture, to bound memory
_WINDOW = 48  # px, longer side of the picture in which the background is measured
# The dark around a round view: most light, as a share of the field's; least area, as a share of the picture;
# width of its rim, in longer sides.
_DARK, _MIN_DARK_AREA, _RIM = 0.35, 0.01, 0.015
_MIN_FALL = 0.3  # the least fall of light, as a natural logarithm, that is fitted

# Where foreground starts: as a share of the usual cell's optical density, and as a share of the cell's own,
# for one that is darker than usual or out of focus.
_FOREGROUND, _LOCAL = 0.3, 0.4
_LEVELS = (0.3, 0.45, 0.6, 0.75)  # shares of the density at which lone cells are looked for
_LEVEL_COST = 0.6  # what a level costs, as a share of the area of lone cells
_MAX_HOLE = 0.45  # the largest pale middle of a cell, in areas of the usual cell

# In diameters of the usual cell: distances from edges to middles, spread of the votes, least distance between
# middles, farthest reach of a cell from its middle, and distance from the middle within which a cell includes
# what another covers.
_RADII, _SPREAD, _MIN_DISTANCE, _MAX_REACH, _OVERLAP = np.arange(0.34, 0.57, 0.03), 0.1, 0.2, 0.8, 0.45
# Slopes that vote, and the most that counts, in usual densities per diameter.
_MIN_SLOPE, _MAX_SLOPE = 2.2, 13.0
# Votes that a middle needs, as a share of those of the best ones; and in a piece that is too large and dense
# for one cell.
_VOTES, _FEW_VOTES = 0.45, 0.3

# Least distances of a middle without votes from the edge and from other middles, in diameters.
_MIN_DEPTH, _MIN_GAP = 0.3, 0.7

_MIN_AREA = 0.5  # usual areas: least of a cell, also of the visible part of one that the border cuts
_MAX_CELL = 1.57  # most area times root of density of one cell, in usual ones: overlaps are denser
# In usual areas. A piece that lies alone is one cell up to _MAX_LONE, however long. A clump with one middle
# and no waist (solidity above _MIN_SOLIDITY) is one cell up to _MAX_CLUMP.
_MAX_LONE, _MAX_CLUMP, _MIN_SOLIDITY = 1.25, 5, 0.9

_BODY = 0.2  # diameters around a nucleus that belong to the white cell
# Nuclei of white cells, in units of the usual cell: least density; density in red light over that in green,
# which is between these for red cells, also where they overlap; half the largest gap between lobes, in
# diameters; least area of all lobes (a parasite is smaller).
_MIN_NUCLEUS, _COLOUR_OF_RED_CELLS, _LOBE_GAP, _MIN_LOBES = 1.9, (0.8, 1.25), 0.2, 1.1
_MIN_FOCUS = 4.4  # least steepness of edges in focus, usual densities per diameter
_MIN_CELL_LIKE = 0.35  # least share of a thin film's foreground with the size and shape of cells
_MAX_ROUGHNESS = 0.04  # optical density: unevenness of the bare ground that shows a thick film
_MIN_CONTRAST = 0.04  # optical density: the least of a stained cell


@dataclass(frozen=True)
class Cell:
    """A red cell: `box` is x, y, width, height in px of the field, `mask` its pixels, bool (height, width).

    `cut` says that the border of the field, or the dark around it, cuts the cell; `clumped` that the cell
    touches or overlaps another.
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
        """Points around the cell, (n, 2), x and y in px of the field."""
        longest = max(measure.find_contours(np.pad(self.mask, 1).astype(float), 0.5), key=len)
        return longest[:, ::-1] - 1 + self.box[:2]

    def holds(self, x: float, y: float) -> bool:
        """Whether a point of the field lies in the cell."""
        column, row = int(x) - self.box[0], int(y) - self.box[1]
        return 0 <= column < self.box[2] and 0 <= row < self.box[3] and bool(self.mask[row, column])


@dataclass(frozen=True)
class Field:
    """What a picture shows: `kind`, and on a thin film its cells.

    `shape` is height and width, px; `background` and `colour` of the usual cell are RGB; `diameter` of the
    usual cell is in px; `focus` is how steep cells' sharper edges are, in usual densities per diameter (below
    4.4 is out of focus).
    """

    kind: str
    shape: Shape
    cells: tuple[Cell, ...] = ()
    background: tuple[float, ...] = ()
    colour: tuple[float, ...] = ()
    diameter: float = 0.0
    focus: float = 0.0


def read(picture: Path) -> images.Pixels:
    """Read the picture of a field, uint8 (h, w, 3), RGB; UserError if `find` cannot take it."""
    try:
        return images.read(picture, _LIMITS).pixels
    except images.Unreadable as error:
        raise UserError(f"{picture}: {error.reason}; export it again, or leave it out.") from None


def find(field: images.Pixels) -> Field:
    """Find the red cells of `field`, uint8 (h, w, 3), RGB, each side at least 100 px.

    White cells, platelets and dirt are left out, and so are cells of which the border cuts off more than
    about half.
    """
    height, width = field.shape[:2]
    shape = (height, width)
    scale = min(1.0, (_FIRST_PIXELS / (height * width)) ** 0.5)
    density, _, view = _density(_resized(field, scale))
    density = ndimage.gaussian_filter(density[:, :, 1], 1)
    cell_density = _cell_density(density, view)
    if cell_density < _MIN_CONTRAST:
        return Field(EMPTY, shape)
    no_field = Field(NO_FIELD, shape)
    full_diameter, cell_density, threshold = _measure_lone_cells(density, cell_density)
    full_diameter /= scale
    if not full_diameter:
        return no_field
    scale = min(1.0, _DIAMETER / full_diameter, (_MAX_PIXELS / (height * width)) ** 0.5)
    small = _resized(field, scale)
    colours, background, view = _density(small)
    diameter = full_diameter * scale
    colours = ndimage.gaussian_filter(colours, (0.02 * diameter, 0.02 * diameter, 0))
    density = colours[:, :, 1]
    core = _foreground(density, threshold, diameter)
    if not core.any():
        return no_field
    focus = _steepness(density, _reach(density, core, cell_density, diameter), cell_density) * diameter
    pieces = _pieces(_middles(density / cell_density, core, diameter), core, core, diameter)
    # A second time with a threshold for each piece, because a cell out of focus has a wide edge.
    areas = np.maximum(np.bincount(pieces.ravel()), 1)
    densities = np.bincount(pieces.ravel(), density.ravel()) / areas
    thresholds = np.clip(_LOCAL * densities, _FOREGROUND * cell_density, 2 * cell_density)
    core = _foreground(density, thresholds[pieces], diameter)
    if not core.any():
        return no_field
    reach = _reach(density, core, cell_density, diameter)
    cell_area = np.pi / 4 * diameter**2
    crowded = (areas / cell_area) ** 2 * densities / cell_density > _MAX_CELL**2
    middles = _middles(density / cell_density, core, diameter, np.where(crowded, _FEW_VOTES, _VOTES)[pieces])
    pieces = _pieces(middles, core, reach, diameter)
    inside = pieces > 0
    nuclei = _nuclei(colours, inside, diameter) if inside.any() else inside
    kind = _kind(pieces, nuclei, reach, density, cell_area, focus, view)
    candidates = _cells(pieces, middles, reach, nuclei, view, diameter, shape) if kind == THIN_FILM else ()
    cells = tuple(cell for cell in candidates if cell.area * scale**2 > _MIN_AREA * cell_area)
    colour = tuple(float(v) for v in np.median(small[inside], axis=0)) if inside.any() else ()
    background_colour = tuple(float(v) for v in background[view].mean(axis=0))
    return Field(kind, shape, cells, background_colour, colour, full_diameter, focus)


def crop(field: images.Pixels, cell: Cell) -> images.Pixels:
    """The cell on black, at the field's own resolution: uint8 (h, w, 3), RGB."""
    x, y, w, h = cell.box
    return field[y : y + h, x : x + w] * cell.mask[:, :, None]


def _resized(pixels: images.Pixels, scale: float) -> images.Pixels:
    """The picture, uint8 (h, w, 3), at another scale."""
    height, width = pixels.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


def _density(pixels: images.Pixels) -> tuple[Floats, Floats, Mask]:
    """Optical density relative to the field's own background, and that background, float32 (h, w, 3).

    The mask says where the field is: around the round view of an eyepiece it is not, and the density is 0.
    """
    height, width = pixels.shape[:2]
    small = _resized(pixels, min(1.0, _WINDOW / max(height, width)))
    side = max(small.shape)
    light, small_view = _illumination(small.max(axis=2))
    evened = small / light[:, :, None]
    # The dark around a field says nothing of its light.
    evened[~small_view] = np.percentile(evened[small_view], 92, axis=0)
    bright = ndimage.percentile_filter(evened, 92, size=(side // 3, side // 3, 1)).astype(np.float32)
    smooth = ndimage.gaussian_filter(bright, (side / 12, side / 12, 0)) * light[:, :, None]
    planes = [Image.fromarray(plane) for plane in np.moveaxis(smooth, 2, 0)]
    resized = [plane.resize((width, height), Image.Resampling.BILINEAR) for plane in planes]
    background = np.dstack([np.asarray(plane) for plane in resized])
    density = np.log(background + 4) - np.log(pixels.astype(np.float32) + 4)
    view = _field_of_view(np.exp(-density.min(axis=2)))
    density[~view] = 0
    return density, background, view


def _illumination(brightest: Floats) -> tuple[Floats, Mask]:
    """How the light falls off towards the borders, float32 (h, w), in (0, 1], and where the field is.

    The light is 1 everywhere if it hardly falls off. `brightest`, (h, w), is the brightest channel of a small
    picture: usually red, in which red cells are pale.
    """
    light = np.log(brightest + np.float32(4))
    surface = _surface(light, _field_of_view(brightest), 2)
    view = _field_of_view(np.exp(light - surface))
    if np.ptp(surface[view]) < _MIN_FALL:
        return np.ones_like(light), view
    surface = _surface(light, view, 4)
    return np.exp(surface - surface.max()).astype(np.float32), view


def _surface(light: Floats, view: Mask, degree: int) -> Floats:
    """A polynomial of x and y through the bright parts of `light`, (h, w), within the field of view.

    Elsewhere it stays within its range there: it must not follow the dark around a field.
    """
    y, x = (axis / max(view.shape) for axis in np.indices(view.shape))
    terms = np.stack([x**i * y**j for i in range(degree + 1) for j in range(degree + 1 - i)], axis=2)
    weight = np.ones_like(light)
    for _ in range(20):
        factors = np.linalg.lstsq(terms[view] * weight[view, None], (light * weight)[view], rcond=None)[0]
        surface: Floats = terms @ factors
        weight = np.where(light > surface, 1.0, 0.2)
    return np.clip(surface, surface[view].min(), surface[view].max())


def _field_of_view(bright: Floats) -> Mask:
    """Where the field is, (h, w): everywhere but in large dark parts at the border, and their rims."""
    labels, _ = ndimage.label(bright < _DARK * np.percentile(bright, 90))
    large = np.bincount(labels.ravel()) > _MIN_DARK_AREA * labels.size
    at_border = {*labels[[0, -1]].flat, *labels[:, [0, -1]].flat} - {0}
    dark = np.isin(labels, [label for label in at_border if large[label]])
    if not dark.any():
        return ~dark
    view: Mask = ndimage.distance_transform_edt(~dark) > max(1, _RIM * max(labels.shape))
    return view if view.any() else ~view


def _cell_density(density: Floats, view: Mask) -> float:
    """The median density of cells, which the far darker nuclei do not raise; 0 for one even colour."""
    if np.ptp(density) == 0:
        return 0.0
    lowest = filters.threshold_multiotsu(density[::2, ::2][view[::2, ::2]], 3, nbins=64)[0]
    first_guess = np.median(density[density > lowest])
    return float(np.median(density[density > _FOREGROUND * first_guess]))


def _measure_lone_cells(density: Floats, foreground_density: float) -> tuple[float, float, float]:
    """Diameter (px) and density of the cells that lie alone, and the threshold at which most lie alone.

    Without such cells the density is `foreground_density`, and the diameter follows from how far the middles
    of all foreground lie from its edges, which touching cells change little; it is 0 without foreground.
    """
    candidates = []
    for level in _LEVELS:
        foreground = _filled(density, level * foreground_density, 0.02 * density.size)
        diameter = _diameter_of_middles(ndimage.distance_transform_edt(foreground))
        if not diameter:
            continue
        labels, _ = ndimage.label(foreground)
        cell_area = np.pi / 4 * diameter**2
        regions = [region for region in measure.regionprops(labels) if 0.5 < region.area / cell_area < 1.6]
        regions = [region for region in regions if not _is_cut(region.bbox, labels.shape)]
        lone = [region for region in regions if _solidity(region) > 0.93 and _aspect_ratio(region) < 1.5]
        areas = np.array([region.area for region in lone])
        cell_density = foreground_density
        if len(lone) >= 3:
            diameter = 2 * float(_median_by_weight(areas, 1) / np.pi) ** 0.5
            cell_density = float(np.median(density[np.isin(labels, [region.label for region in lone])]))
        # A higher level must find more lone cells, because it counts more of each cell as background. Without
        # lone cells, the lowest level would join cells by the stain between them.
        score = areas.sum() * (1 - _LEVEL_COST * level) - abs(level - _LEVELS[1])
        candidates.append((score, diameter, cell_density, level * foreground_density))
    return max(candidates)[1:] if candidates else (0.0, foreground_density, foreground_density)


def _diameter_of_middles(depth: Floats) -> float:
    """The diameter of cells, px, from the depths of their middles.

    A middle is the deepest place of a window, which grows with the diameter.
    """
    diameter = 18.0
    for _ in range(4):
        smooth = ndimage.gaussian_filter(depth, 0.03 * diameter)
        middles = depth[(smooth == ndimage.maximum_filter(smooth, round(diameter / 2))) & (depth > 3)]
        if not len(middles):
            return 0.0
        large = middles[middles > 0.5 * _median_by_weight(middles, 2)]  # specks and rims have middles too
        diameter = 2.15 * float(np.median(large))  # cells are a little longer than wide
    return diameter


def _median_by_weight(values: Floats, power: int) -> float:
    """The median of values, each weighted by its `power`-th power."""
    return float(np.quantile(values, 0.5, weights=values**power, method="inverted_cdf"))


def _filled(density: Floats, threshold: Floats | float, max_hole: float) -> Mask:
    """What is denser than `threshold`, and the middles of cells: holes below `max_hole` px, pale or round."""
    share = density / threshold
    foreground = share > 1
    labels, _ = ndimage.label(~foreground)
    sizes = np.bincount(labels.ravel())
    pale = np.bincount(labels.ravel(), share.ravel()) > 0.5 * sizes
    fill = np.zeros(len(sizes), bool)
    for region in measure.regionprops(labels):
        if region.area < max_hole and not _is_cut(region.bbox, labels.shape):
            small = region.area < 0.04 * max_hole
            fill[region.label] = pale[region.label] or small or _solidity(region) > 0.85
    return foreground | fill[labels]


def _foreground(density: Floats, threshold: Floats | float, diameter: float) -> Mask:
    """What `_filled` finds, without threads and specks."""
    filled = _filled(density, threshold, _MAX_HOLE * np.pi / 4 * diameter**2)
    return ndimage.binary_opening(filled, _disc(0.06 * diameter))


def _reach(density: Floats, core: Mask, cell_density: float, diameter: float) -> Mask:
    """The foreground with the pale edge around it."""
    near = ndimage.binary_dilation(core, _disc(0.05 * diameter))
    return core | ((density > _FOREGROUND * cell_density) & near)


def _disc(radius: float) -> Mask:
    """A disc of `radius` px, for dilation and opening."""
    y, x = np.ogrid[-int(radius) - 1 : int(radius) + 2, -int(radius) - 1 : int(radius) + 2]
    return x * x + y * y <= radius * radius + 0.5


def _middles(density: Floats, core: Mask, diameter: float, min_votes: Floats | float = _VOTES) -> Integers:
    """The middles of cells, (n, 2), y and x: the places to which most edges around them point.

    At the edge of a cell the density rises towards its middle, even if the cell lies on another one. A middle
    has at least a share `min_votes` of the votes of the best ones. A piece that lies alone and is no larger
    than a cell has one middle, however long it is.
    """
    slope = np.stack([ndimage.gaussian_filter(density, 1, order=order) for order in ((1, 0), (0, 1))])
    steep = np.hypot(*slope) * diameter
    edges = np.argwhere((steep > _MIN_SLOPE) & ndimage.binary_dilation(core, iterations=2)).T
    weight = np.sqrt(np.minimum(steep[*edges], _MAX_SLOPE))
    inward = slope[:, *edges] / steep[*edges] * diameter
    votes = np.zeros(density.shape)
    for radius in _RADII * diameter:
        targets = np.rint(edges + radius * inward).astype(int)
        inside = ((targets >= 0) & (targets < np.array([density.shape]).T)).all(axis=0)
        np.add.at(votes, tuple(targets[:, inside]), weight[inside])
    votes = ndimage.gaussian_filter(votes, _SPREAD * diameter)
    peaks = votes == ndimage.maximum_filter(votes, round(2 * _MIN_DISTANCE * diameter) | 1)
    middles = core & peaks & (votes > min_votes * np.percentile(votes[core], 98))
    # A large pale cell among others gets few votes. Its middle is the deepest place far from every other.
    depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(core), 0.05 * diameter)
    deepest = (depth > _MIN_DEPTH * diameter) & (depth == ndimage.maximum_filter(depth, round(diameter)))
    middles |= deepest & (ndimage.distance_transform_edt(~middles) > _MIN_GAP * diameter)
    clumps, sizes = _clumps(core, diameter)
    single = (sizes > 0.8 * _MIN_AREA) & ((sizes < _MAX_LONE) | (_middle_counts(clumps, middles) == 0))
    single[0] = False
    lone = ndimage.maximum_position(depth, clumps, np.flatnonzero(single))
    return np.concatenate([np.argwhere(middles & ~single[clumps]), np.array(lone, int).reshape(-1, 2)])


def _clumps(foreground: Mask, diameter: float) -> tuple[Labels, Floats]:
    """The connected parts of the foreground, and the size of each, in usual areas."""
    clumps, _ = ndimage.label(foreground)
    return clumps, np.bincount(clumps.ravel()) / (np.pi / 4 * diameter**2)


def _middle_counts(clumps: Labels, middles: Mask) -> Integers:
    """How many middles each clump has."""
    return np.bincount(clumps[middles], minlength=clumps.max() + 1)


def _pieces(middles: Integers, core: Mask, reach: Mask, diameter: float) -> Labels:
    """A watershed with a piece for every middle, (h, w); 0 outside and too far from the middle."""
    markers = np.zeros(core.shape, np.int32)
    markers[tuple(middles.T)] = np.arange(1, len(middles) + 1)
    distance = ndimage.distance_transform_edt(markers == 0)
    depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(core), 0.05 * diameter)
    # A clump with one middle and no waist is a cell, however far it reaches.
    clumps, sizes = _clumps(reach, diameter)
    alone = (_middle_counts(clumps, markers > 0) == 1) & (sizes < _MAX_CLUMP)
    regions = [region for region in measure.regionprops(clumps) if alone[region.label]]
    whole = np.isin(clumps, [region.label for region in regions if _solidity(region) > _MIN_SOLIDITY])
    mask = reach & (whole | (distance < _MAX_REACH * diameter))
    return segmentation.watershed(distance - depth, markers, mask=mask)


def _solidity(region: Any) -> float:
    """Area of one of scikit-image's regions over the area of its convex hull.

    scikit-image's own solidity counts pixels of the hull, which takes far longer.
    """
    rows, width = np.arange(region.image.shape[0]), region.image.shape[1]
    ends = region.image.argmax(axis=1), width - region.image[:, ::-1].argmax(axis=1)
    corners = [np.stack([rows + down, end], axis=1) for end in ends for down in (0, 1)]
    # Corners of pixels: the area is a multiple of a half.
    return float(region.area / (round(2 * ConvexHull(np.concatenate(corners)).volume) / 2))


def _aspect_ratio(region: Any) -> float:
    """Long axis over short axis, of the ellipse with the same moments."""
    long, short = region.inertia_tensor_eigvals
    return float(((long + 1 / 12) / (short + 1 / 12)) ** 0.5)


def _is_cut(bbox: tuple[int, int, int, int], shape: tuple[int, ...]) -> bool:
    """Whether a box (top, left, bottom and right, px) reaches the border of a picture."""
    top, left, bottom, right = bbox
    return top == 0 or left == 0 or bottom == shape[0] or right == shape[1]


def _nuclei(colours: Floats, in_cells: Mask, diameter: float) -> Mask:
    """Where nuclei of white cells are, (h, w): dark, of another colour than red cells, and larger in all.

    Args:
        colours: optical density in red, green and blue light, float (h, w, 3).
        in_cells: the foreground of cells, not empty.
        diameter: of the usual cell, px.
    """
    red, green, _ = np.moveaxis(colours / np.median(colours[in_cells], axis=0), 2, 0)
    low, high = _COLOUR_OF_RED_CELLS
    stained = (green > _MIN_NUCLEUS) & ((red < low * green) | (red > high * green))
    nuclei = ndimage.binary_opening(stained, iterations=2)
    labels = ndimage.label(ndimage.binary_dilation(nuclei, _disc(_LOBE_GAP * diameter)))[0] * nuclei
    areas = np.bincount(labels.ravel()) / (np.pi / 4 * diameter**2)
    large = (areas > _MIN_LOBES) & (areas < 6)
    large[0] = False
    return large[labels]


def _steepness(density: Floats, reach: Mask, cell_density: float) -> float:
    """How much density rises per pixel at the edges, as a share of the usual cell's density.

    The upper quartile, because a field with cells at two heights still has cells in focus.
    """
    edge = reach & ~ndimage.binary_erosion(reach, iterations=3, border_value=1)
    slope = ndimage.gaussian_gradient_magnitude(density, 1)
    return float(np.quantile(slope[edge], 0.75) / cell_density) if edge.any() else 0.0


def _kind(
    pieces: Labels, nuclei: Mask, reach: Mask, density: Floats, cell_area: float, focus: float, view: Mask
) -> str:
    """The kind of picture: much of a thin film's foreground looks like cells, and these are in focus."""
    regions = [region for region in measure.regionprops(pieces) if 0.5 < region.area / cell_area < 2]
    like_cells = sum(region.area for region in regions if _solidity(region) > 0.87)
    bare = density[~ndimage.binary_dilation(reach | ~view, iterations=4)]
    rough = float(np.median(np.abs(bare - np.median(bare)))) if len(bare) else 0.0
    if like_cells < _MIN_CELL_LIKE * (reach & ~nuclei).sum():
        return THICK_FILM if ndimage.label(nuclei)[1] >= 3 else NO_FIELD
    if rough > _MAX_ROUGHNESS and reach.sum() < 0.25 * view.sum():
        return THICK_FILM
    return THIN_FILM if focus >= _MIN_FOCUS else BLURRED


def _cells(
    pieces: Labels, middles: Integers, reach: Mask, nuclei: Mask, view: Mask, diameter: float, shape: Shape
) -> Iterator[Cell]:
    """The cells of a field of `shape` whose pieces are no white cells, with what others cover of them."""
    cell_area = np.pi / 4 * diameter**2
    bodies = ndimage.binary_dilation(nuclei, _disc(_BODY * diameter)) if nuclei.any() else nuclei
    clumps, _ = ndimage.label(reach)
    rim = ~view if view.all() else ndimage.binary_dilation(~view, _disc(0.05 * diameter))
    radius = round(_OVERLAP * diameter)
    for region in measure.regionprops(pieces):
        middle = middles[region.label - 1]
        corner = np.maximum(np.minimum(region.bbox[:2], middle - radius), 0)
        end = np.maximum(region.bbox[2:], middle + radius)
        window = slice(corner[0], end[0]), slice(corner[1], end[1])
        piece = pieces[window] == region.label
        if (bodies[window] & piece).sum() > 0.4 * min(piece.sum(), cell_area):
            continue
        clump = clumps[window] == clumps[*middle]
        (y, x), (rows, columns) = middle - corner, np.indices(piece.shape)
        near = np.hypot(rows - y, columns - x) < _OVERLAP * diameter
        clumped = bool((clump & ~piece).any())
        at_rim = bool((rim[window] & piece).any())
        yield _cell(piece | (clump & near), corner, pieces.shape, shape, at_rim, clumped)


def _cell(
    mask: Mask, corner: Integers, small_shape: tuple[int, ...], shape: Shape, at_rim: bool, clumped: bool
) -> Cell:
    """A cell of the picture of shape `small_shape`, in px of the field, whose shape is `shape`.

    `mask` has its corner at `corner`, y and x; `at_rim` says that it reaches the dark around the field.
    """
    (inside,) = ndimage.find_objects(mask.astype(np.int8))
    ends = np.array([(side.start, side.stop) for side in inside]).T + corner
    # Not by the scale: the small picture's sides are whole numbers, and its border must be the field's.
    (top, left), (bottom, right) = np.rint(ends * shape / small_shape).astype(int).tolist()
    image = Image.fromarray(mask[inside].astype(np.uint8) * 255)
    large = np.asarray(image.resize((right - left, bottom - top), Image.Resampling.BILINEAR)) >= 128
    cut = at_rim or _is_cut((top, left, bottom, right), shape)
    return Cell((left, top, right - left, bottom - top), large, cut, clumped)
