"""Match the cells that were found to the annotated ones, to see what was missed and what is extra."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy.optimize import linear_sum_assignment

from malaria.cells.images import Pixels
from malaria.fields.annotations import OTHER, Box, Mark
from malaria.fields.find import Cell, Field, Floats, Shape

MIN_IOU = 0.5
EDGE = 2  # px within which an annotated box counts as cut by the border
MATCHED, MISSED, EXTRA = (0, 160, 60), (230, 40, 30), (40, 90, 255)


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
    ignored = np.array([mark.ignore for mark in marks], dtype=bool)
    cell_boxes, mark_boxes = _boxes(field.cells), _boxes(marks)
    scores = np.where(ignored, 0.0, _scores(field.cells, cell_boxes, mark_boxes))
    rows, columns = linear_sum_assignment(-scores)
    pairs = [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if scores[i, j] > 0]
    red_cells = {j for j, mark in enumerate(marks) if not (mark.ignore or mark.label == OTHER)}
    unmatched = sorted(red_cells - {j for _, j in pairs})
    missed = [j for j in unmatched if not _is_cut(marks[j].box, field.shape)]
    overlap = _intersections(cell_boxes, mark_boxes[ignored]).max(axis=1, initial=0.0)
    ignored_share = overlap / cell_boxes[:, 2:].prod(axis=1)
    whole_cells = {i for i, cell in enumerate(field.cells) if not cell.cut and ignored_share[i] <= 0.5}
    extra = sorted(whole_cells - {i for i, _ in pairs})
    return Match(tuple(pairs), tuple(missed), tuple(extra))


def overlap(cell: Cell, mark: Mark) -> bool:
    """Whether the middle of a mark lies in the box of a cell, or the middle of that box in the mark's."""
    (x, y, w, h), (mark_x, mark_y, mark_w, mark_h) = cell.box, mark.box
    dx, dy = mark_x + mark_w / 2 - (x + w / 2), mark_y + mark_h / 2 - (y + h / 2)
    return any(abs(dx) <= a / 2 and abs(dy) <= b / 2 for a, b in ((w, h), (mark_w, mark_h)))


def outlines(pixels: Pixels, field: Field, marks: Sequence[Mark], matched: Match) -> Image.Image:
    """The field with what was matched (green), missed (red boxes) and found without a mark (blue)."""
    image = Image.fromarray(pixels)
    pen = ImageDraw.Draw(image)
    width = max(1, round(max(image.size) / 600))
    matched_cells = {i for i, _ in matched.pairs}
    for i, cell in enumerate(field.cells):
        points = [(float(x), float(y)) for x, y in cell.outline]
        pen.line([*points, points[0]], fill=MATCHED if i in matched_cells else EXTRA, width=width)
    for j in matched.missed:
        x, y, w, h = marks[j].box
        corners = [x - 3 * (w == 0), y - 3 * (h == 0), x + max(w, 3), y + max(h, 3)]
        pen.rectangle(corners, outline=MISSED, width=width)
    return image


def _boxes(items: Sequence[Cell | Mark]) -> Floats:
    """The boxes of cells or marks, float64 (n, 4)."""
    return np.array([item.box for item in items], float).reshape(-1, 4)


def _scores(cells: Sequence[Cell], cell_boxes: Floats, mark_boxes: Floats) -> Floats:
    """How well cells fit marks, (cells, marks): IoU if at least MIN_IOU, 1 for a point in a cell, else 0."""
    shared, area = _intersections(cell_boxes, mark_boxes), mark_boxes[:, 2:].prod(axis=1)
    iou = shared / (cell_boxes[:, 2:].prod(axis=1)[:, None] + area - shared)
    scores = np.where(iou >= MIN_IOU, iou, 0.0)
    for j in np.flatnonzero(area == 0):
        scores[:, j] = [cell.holds(*mark_boxes[j, :2]) for cell in cells]
    return scores


def _intersections(first: Floats, second: Floats) -> Floats:
    """The area that each box of `first`, (n, 4), shares with each of `second`, (m, 4): (n, m)."""
    start = np.maximum(first[:, None, :2], second[None, :, :2])
    end = np.minimum((first[:, :2] + first[:, 2:])[:, None], (second[:, :2] + second[:, 2:])[None])
    sides: Floats = np.clip(end - start, 0, None)
    return sides[:, :, 0] * sides[:, :, 1]


def _is_cut(box: Box, shape: Shape) -> bool:
    """Whether the border of a field cuts an annotated box."""
    (x, y, w, h), (height, width) = box, shape
    return w > 0 and (x <= EDGE or y <= EDGE or x + w >= width - EDGE or y + h >= height - EDGE)
