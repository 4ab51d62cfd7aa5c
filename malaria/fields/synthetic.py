"""Draw whole fields of view from random numbers, with the true label and box of every cell."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from malaria.cells import synthetic
from malaria.cells.images import Pixels
from malaria.cells.prepared import cell_mask
from malaria.cells.synthetic import Floats, Random
from malaria.fields.annotations import OTHER, Box, Mark
from malaria.labels import PARASITIZED, UNINFECTED

THIN, THICK, EMPTY, BLURRED = "thin film", "thick film", "empty", "blurred"
_GLASS = np.array([226.0, 222.0, 224.0])  # RGB of light through the bare slide
_NUCLEUS = np.array([96.0, 48.0, 140.0])
_MAX_OVERLAP = 0.35  # of a cell's diameter


def draw(
    random: Random,
    kind: str = THIN,
    size: tuple[int, int] = (1280, 960),
    cells: int = 110,
    infected: float = 0.06,
    diameter: float = 72.0,
) -> tuple[Pixels, tuple[Mark, ...]]:
    """Draw a field: its pixels, uint8 (h, w, 3), RGB, and the marks of what lies on it.

    Args:
        size: width and height, px.
        cells: how many red cells to draw; those that find no free place are left out.
        infected: share of them with parasites.
        diameter: of a usual red cell, px, at least 50.
    """
    width, height = size
    stain = replace(synthetic.stain(random), side=diameter * 1.06)
    transmitted = np.ones((height, width, 3))  # share of light that gets through
    marks: list[Mark] = []
    if kind in (THIN, BLURRED):
        marks += _red_cells(random, transmitted, stain, cells, infected, diameter)
    if kind == THICK:
        transmitted *= 1 - 0.25 * _clouds(random, size, 60)[:, :, None] * [0.5, 1.0, 0.6]
        _specks(random, transmitted, 150, diameter * 0.04)
    if kind != EMPTY:
        count = int(random.integers(8, 16)) if kind == THICK else int(random.integers(0, 3))
        marks += [_white_cell(random, transmitted, diameter, bare=kind == THICK) for _ in range(count)]
        marks += [_platelet(random, transmitted, diameter) for _ in range(int(random.integers(2, 8)))]
    light = _GLASS * (1 + 0.08 * (_clouds(random, size, 3)[:, :, None] - 0.5))
    pixels = transmitted * light + random.normal(0, 2, transmitted.shape)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    blur = diameter * (0.17 if kind == BLURRED else 0.012)
    return np.asarray(image.filter(ImageFilter.GaussianBlur(blur))), tuple(marks)


def _red_cells(
    random: Random, transmitted: Floats, stain: synthetic.Stain, cells: int, infected: float, diameter: float
) -> list[Mark]:
    height, width = transmitted.shape[:2]
    centres = np.empty((0, 2))
    marks: list[Mark] = []
    for _ in range(30 * cells):
        if len(marks) == cells:
            break
        centre = random.uniform((0, 0), (width, height))
        distances = np.hypot(*(centres - centre).T)
        if len(centres) and distances.min() < diameter * (1 - random.uniform(0, _MAX_OVERLAP)):
            continue
        parasitized = random.random() < infected
        crop = synthetic.draw(random, stain, parasitized)
        if box := _absorb(transmitted, crop / stain.cell.max() / 1.02, cell_mask(crop), centre):
            centres = np.vstack([centres, centre])
            marks.append(Mark(PARASITIZED if parasitized else UNINFECTED, box))
    return marks


def _white_cell(random: Random, transmitted: Floats, diameter: float, bare: bool) -> Mark:
    """A leucocyte: lobes of a nucleus, and its pale body unless it is `bare`, as in thick films."""
    radius = diameter * random.uniform(0.8, 1.1)
    y, x = np.mgrid[-1 : 1 : 2 / (2 * radius), -1 : 1 : 2 / (2 * radius)]
    nucleus = np.zeros_like(x)
    for _ in range(int(random.integers(2, 5))):
        dx, dy = random.normal(0, 0.2, 2)
        nucleus = np.maximum(nucleus, np.hypot(x - dx, y - dy) < random.uniform(0.35, 0.5))
    shape = nucleus > 0 if bare else np.hypot(x, y) < 0.97
    colour = np.where(nucleus[:, :, None] > 0, _NUCLEUS, [196.0, 176.0, 206.0]) / 255
    return _place(random, transmitted, colour, shape)


def _platelet(random: Random, transmitted: Floats, diameter: float) -> Mark:
    radius = diameter * random.uniform(0.1, 0.2)
    y, x = np.mgrid[-1 : 1 : 1 / radius, -1 : 1 : 1 / radius]
    return _place(random, transmitted, np.array([0.66, 0.5, 0.72]), np.hypot(x, y) < 0.95)


def _place(random: Random, transmitted: Floats, colour: Floats, shape: npt.NDArray[np.bool_]) -> Mark:
    height, width = transmitted.shape[:2]
    box = None
    while box is None:
        box = _absorb(transmitted, colour, shape, random.uniform((0, 0), (width, height)))
    return Mark(OTHER, box)


def _absorb(transmitted: Floats, colour: Floats, shape: npt.NDArray[np.bool_], centre: Floats) -> Box | None:
    """Take light away where `shape` is, centred at `centre`; return the box of what is visible, or None.

    `colour` is the share of light that gets through, (3,) or for each pixel of the shape.
    """
    left, top = (int(v) for v in centre - np.array(shape.shape[::-1]) / 2)
    height, width = transmitted.shape[:2]
    window = (slice(max(top, 0), top + shape.shape[0]), slice(max(left, 0), left + shape.shape[1]))
    inside = (slice(max(-top, 0), max(height - top, 0)), slice(max(-left, 0), max(width - left, 0)))
    visible = shape[inside]
    if not visible.any():
        return None
    shares = np.broadcast_to(colour, (*shape.shape, 3))[inside]
    transmitted[window] *= np.where(visible[:, :, None], np.clip(shares, 0.02, 1), 1)
    rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    x, y = window[1].start + columns[0], window[0].start + rows[0]
    return float(x), float(y), float(np.ptp(columns) + 1), float(np.ptp(rows) + 1)


def _specks(random: Random, transmitted: Floats, count: int, radius: float) -> None:
    """Parasites and debris of a thick film: dark dots."""
    y, x = np.mgrid[-1 : 1 : 1 / radius, -1 : 1 : 1 / radius]
    shape = np.hypot(x, y) < 1
    for centre in random.uniform((0, 0), transmitted.shape[1::-1], (count, 2)):
        _absorb(transmitted, np.array([0.5, 0.3, 0.6]), shape, centre)


def _clouds(random: Random, size: tuple[int, int], grain: int) -> Floats:
    """Smooth noise in [0, 1], (h, w), with about `grain` hills across."""
    coarse = Image.fromarray(random.uniform(0, 1, (grain, grain)).astype(np.float32))
    return np.clip(np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=np.float64), 0, 1)
