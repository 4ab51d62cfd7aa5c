"""Which found cell is which annotated one, and how good finding is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy.optimize import linear_sum_assignment

from malaria.cells.images import Pixels
from malaria.fields.annotations import OTHER, Mark
from malaria.fields.find import Cell, Field

MIN_IOU = 0.5
EDGE = 2  # px within which an annotated box counts as cut by the border
MATCHED, MISSED, LEFT_OUT = (0, 160, 60), (230, 40, 30), (40, 90, 255)


@dataclass(frozen=True)
class Match:
    """`pairs` are positions of a cell and of its mark; `missed` of marks of red cells that no cell is, unless
    the border cuts them; `extra` of whole cells that no mark is, where the annotation is not ignored.
    """

    pairs: tuple[tuple[int, int], ...]
    missed: tuple[int, ...]
    extra: tuple[int, ...]


def match(field: Field, marks: Sequence[Mark]) -> Match:
    """One cell for one mark: a box by its overlap (IoU at least 0.5), a point by the cell it lies in."""
    cells = field.cells
    fit = np.zeros((len(cells), len(marks)))
    sure = [j for j, mark in enumerate(marks) if not mark.ignore]
    if cells and sure:
        fit[:, sure] = _fits(cells, [marks[j] for j in sure])
    rows, columns = linear_sum_assignment(-fit)
    pairs = [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if fit[i, j] > 0]
    taken, given = {i for i, _ in pairs}, {j for _, j in pairs}
    height, width = field.shape
    missed = [
        j
        for j in sure
        if j not in given and marks[j].label != OTHER and not _cut(marks[j].box, width, height)
    ]
    free = [i for i, cell in enumerate(cells) if i not in taken and not cell.cut]
    ignored = [mark.box for mark in marks if mark.ignore]
    if free and ignored:
        boxes = np.array([cells[i].box for i in free], dtype=float)
        inside = _shared(boxes, np.array(ignored)).max(axis=1) / (boxes[:, 2] * boxes[:, 3])
        free = [i for i, share in zip(free, inside, strict=True) if share <= 0.5]
    return Match(tuple(pairs), tuple(missed), tuple(free))


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
        pen.rectangle(
            [x - 3 * (w == 0), y - 3 * (h == 0), x + max(w, 3), y + max(h, 3)], outline=MISSED, width=width
        )
    return image


def _fits(cells: Sequence[Cell], marks: Sequence[Mark]) -> npt.NDArray[np.float64]:
    """(cells, marks): IoU of boxes where at least MIN_IOU, 1 for a point in a cell, else 0."""
    found = np.array([cell.box for cell in cells], dtype=float)
    given = np.array([mark.box for mark in marks], dtype=float)
    shared = _shared(found, given)
    area = (found[:, 2] * found[:, 3])[:, None] + given[:, 2] * given[:, 3] - shared
    iou = shared / area
    fits = np.where(iou >= MIN_IOU, iou, 0.0)
    for j in np.flatnonzero(given[:, 2] * given[:, 3] == 0):
        fits[:, j] = [cell.holds(*given[j, :2]) for cell in cells]
    return fits


def _shared(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The area that each box of one has in common with each of the other."""
    near = np.maximum(first[:, None, :2], second[None, :, :2])
    far = np.minimum((first[:, :2] + first[:, 2:])[:, None], (second[:, :2] + second[:, 2:])[None])
    sides: npt.NDArray[np.float64] = np.clip(far - near, 0, None)
    return sides[:, :, 0] * sides[:, :, 1]


def _cut(box: tuple[float, float, float, float], width: int, height: int) -> bool:
    """Whether the border cuts an annotated box."""
    x, y, w, h = box
    return w > 0 and (x <= EDGE or y <= EDGE or x + w >= width - EDGE or y + h >= height - EDGE)
