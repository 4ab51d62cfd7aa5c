"""Match the cells that were found to the annotated ones, to see what was missed and what is extra."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy.optimize import linear_sum_assignment

from malaria.cells.images import Pixels
from malaria.fields.annotations import OTHER, Box, Mark
from malaria.fields.find import Cell, Field, Floats

MIN_IOU = 0.5
EDGE = 2  # px within which an annotated box counts as cut by the border
MATCHED, MISSED, LEFT_OUT = (0, 160, 60), (230, 40, 30), (40, 90, 255)


@dataclass(frozen=True)
class Match:
    """Which cell is which mark, by their positions.

    `pairs`: of a cell and of its mark. `missed`: of marks of red cells that match no cell, unless the border
    cuts them. `extra`: of whole cells that match no mark, outside ignored places.
    """

    pairs: tuple[tuple[int, int], ...]
    missed: tuple[int, ...]
    extra: tuple[int, ...]


def match(field: Field, marks: Sequence[Mark]) -> Match:
    """Match one cell to one mark: a box by its overlap (IoU at least 0.5), a point by the cell it lies in."""
    cells = field.cells
    found, given = (np.array([one.box for one in group], float).reshape(-1, 4) for group in (cells, marks))
    ignored = np.array([mark.ignore for mark in marks], dtype=bool)
    fit = np.where(ignored, 0.0, _fits(cells, found, given))
    rows, columns = linear_sum_assignment(-fit)
    pairs = [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if fit[i, j] > 0]
    taken, matched = {i for i, _ in pairs}, {j for _, j in pairs}
    height, width = field.shape
    due = [j for j, mark in enumerate(marks) if not (mark.ignore or mark.label == OTHER)]
    missed = [j for j in due if j not in matched and not _cut(marks[j].box, width, height)]
    covered = _shared(found, given[ignored]).max(axis=1, initial=0.0) / found[:, 2:].prod(axis=1)
    extra = [i for i, cell in enumerate(cells) if i not in taken and not cell.cut and covered[i] <= 0.5]
    return Match(tuple(pairs), tuple(missed), tuple(extra))


def meet(cell: Cell, mark: Mark) -> bool:
    """Whether the middle of a mark lies in the box of a cell, or the middle of that box in the mark's."""
    (x, y, w, h), (left, top, across, down) = cell.box, mark.box
    right, low = left + across / 2 - (x + w / 2), top + down / 2 - (y + h / 2)
    return any(abs(right) <= sides[0] / 2 and abs(low) <= sides[1] / 2 for sides in ((w, h), (across, down)))


def outlines(pixels: Pixels, field: Field, marks: Sequence[Mark], matched: Match) -> Image.Image:
    """The field with what was matched (green), missed (red boxes) and found without a mark (blue)."""
    image = Image.fromarray(pixels)
    pen = ImageDraw.Draw(image)
    width = max(1, round(max(image.size) / 600))
    of_mark = {i for i, _ in matched.pairs}
    for i, cell in enumerate(field.cells):
        points = [(float(x), float(y)) for x, y in cell.outline]
        pen.line([*points, points[0]], fill=MATCHED if i in of_mark else LEFT_OUT, width=width)
    for j in matched.missed:
        x, y, w, h = marks[j].box
        around = [x - 3 * (w == 0), y - 3 * (h == 0), x + max(w, 3), y + max(h, 3)]
        pen.rectangle(around, outline=MISSED, width=width)
    return image


def _fits(cells: Sequence[Cell], found: Floats, given: Floats) -> Floats:
    """How well cells fit marks, (cells, marks): IoU if at least MIN_IOU, 1 for a point in a cell, else 0."""
    shared, area = _shared(found, given), given[:, 2:].prod(axis=1)
    iou = shared / (found[:, 2:].prod(axis=1)[:, None] + area - shared)
    fits = np.where(iou >= MIN_IOU, iou, 0.0)
    for j in np.flatnonzero(area == 0):
        fits[:, j] = [cell.holds(*given[j, :2]) for cell in cells]
    return fits


def _shared(first: Floats, second: Floats) -> Floats:
    """The area that each box of `first`, (n, 4), shares with each of `second`, (m, 4): (n, m)."""
    near = np.maximum(first[:, None, :2], second[None, :, :2])
    far = np.minimum((first[:, :2] + first[:, 2:])[:, None], (second[:, :2] + second[:, 2:])[None])
    sides: Floats = np.clip(far - near, 0, None)
    return sides[:, :, 0] * sides[:, :, 1]


def _cut(box: Box, width: int, height: int) -> bool:
    """Whether the border cuts an annotated box."""
    x, y, w, h = box
    return w > 0 and (x <= EDGE or y <= EDGE or x + w >= width - EDGE or y + h >= height - EDGE)
