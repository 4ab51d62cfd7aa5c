"""Measure how well red cells are found on annotated fields of view: `make fields FIELDS=folder`.

Prints for each annotated set in the folder: F1, precision and recall at a box IoU of 0.5, the error of a
field's count, processor seconds of a field, and memory. Draws the worst fields into reports/fields/. Cells
that the border cuts do not count, whether found or annotated. For sets of points there is only recall.
"""

import random
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from malaria import files, params
from malaria.command import new_parser, positive, require, run_and_exit
from malaria.fields import annotations, find, matching
from malaria.labels import PARASITIZED

REPORTS = Path("reports/fields")


def main() -> None:
    parser = new_parser("experiments.fields", __doc__)
    parser.add_argument("folder", type=Path, help="a folder of annotated sets, or one set")
    parser.add_argument("--sample", type=positive, metavar="N", help="only N random fields of each set")
    parser.add_argument("--worst", type=int, default=6, metavar="N", help="fields of a set to draw (6)")
    arguments = parser.parse_args()
    require("skimage", "make fields", "fields")
    folders = [arguments.folder]
    # One set may be spread over several folders, but not if one of these has all annotations of its own.
    if list(arguments.folder.glob("*/annotations.json")):
        subfolders = sorted(arguments.folder.glob("*/"))
        folders = [folder for folder in subfolders if annotations.annotation_files(folder)]
    for folder in folders:
        fields = annotations.read(folder, params.load_params().data.classes, annotations.UNLABELLED)
        if arguments.sample and arguments.sample < len(fields):
            fields = random.Random(0).sample(fields, arguments.sample)
        scores = pd.DataFrame([score(field) for field in fields])
        print(f"{folder.name}: {as_text(scores)}", flush=True)
        worst = f1(scores).sort_values(kind="stable").index[: arguments.worst]
        for rank, annotated in enumerate((fields[row] for row in worst), 1):
            pixels = find.read(annotated.image)
            field = find.find(pixels)
            matched = matching.match(field, annotated.marks)
            with files.atomic_path(REPORTS / f"{folder.name}-{rank}.png") as part:
                matching.outlines(pixels, field, annotated.marks, matched).save(part)


def score(annotated: annotations.AnnotatedField) -> dict[str, float]:
    """Find the cells of a field, and compare them with its annotation.

    Returns:
        Numbers of cells that are found and annotated (`matched`), only found (`extra`) and only annotated
        (`missed`). A found object that is annotated as no red cell is `extra`. `parasitized` and
        `parasitized_found`: of annotated parasitised cells, also of those that the border cuts. `boxes`:
        whether the annotation has boxes; `seconds`: processor time.
    """
    pixels, marks = find.read(annotated.image), annotated.marks
    annotations.check_size(annotated, pixels.shape[1], pixels.shape[0])
    start = time.process_time()
    field = find.find(pixels)
    seconds = time.process_time() - start
    matched = matching.match(field, marks)
    is_red_cell = [marks[j].label != annotations.OTHER for i, j in matched.pairs if not field.cells[i].cut]
    parasitized = {j for j, mark in enumerate(marks) if mark.label == PARASITIZED and not mark.ignore}
    return {
        "parasitized": len(parasitized),
        "parasitized_found": len(parasitized & {j for _, j in matched.pairs}),
        "matched": sum(is_red_cell),
        "extra": len(matched.extra) + is_red_cell.count(False),
        "missed": len(matched.missed),
        "boxes": any(mark.box[2] for mark in marks),
        "seconds": seconds,
    }


def f1(scores: Any) -> Any:
    """F1 of each row of a table of scores, or of a single row."""
    return 2 * scores.matched / np.maximum(2 * scores.matched + scores.extra + scores.missed, 1)


def as_text(scores: pd.DataFrame) -> str:
    """The figures of a set, for a terminal."""
    totals, cells = scores.sum(), scores.matched + scores.missed
    text = f"{len(scores)} fields, {cells.sum():,} cells; recall {totals.matched / max(cells.sum(), 1):.3f}"
    if totals.boxes:
        errors = scores.extra.sub(scores.missed).div(cells.clip(lower=1)).abs()
        text += (
            f", precision {totals.matched / max(totals.matched + totals.extra, 1):.3f}, F1 {f1(totals):.3f}; "
            f"count off by {errors.median():.1%} (median), {errors.quantile(0.9):.1%} (nine of ten)"
        )
    if totals.parasitized:
        text += f"; {totals.parasitized_found:.0f} of {totals.parasitized:.0f} parasitised ones are found"
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = scores.seconds
    times = f"{seconds.median():.2f} s (median), {seconds.max():.2f} s (most)"
    return f"{text}; {times}; {memory:,.0f} MiB so far"


if __name__ == "__main__":
    run_and_exit(main)
