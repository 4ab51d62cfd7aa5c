"""How well red cells are found on annotated fields of view: `make fields FIELDS=folder`.

Of each annotated set in the folder: F1, precision and recall at a box IoU of 0.5, how far the count of a
field is off, seconds of one core and memory; the worst fields are drawn into reports/fields/. Cells that the
border cuts are measured nowhere, neither found nor annotated ones. Of sets of points there is recall alone.
"""

import argparse
import random
import resource
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from malaria import files
from malaria.cells import images
from malaria.command import end_with, how_many, needs
from malaria.errors import UserError
from malaria.fields import annotations, find, matching
from malaria.params import load_params

REPORTS = Path("reports/fields")
MOST_PIXELS = 50_000_000


@dataclass(frozen=True)
class Score:
    """A field's cells: found and annotated, found alone, annotated alone; whether by boxes; and seconds."""

    both: int
    extra: int
    missed: int
    boxes: bool
    seconds: float

    @property
    def f1(self) -> float:
        return 2 * self.both / max(2 * self.both + self.extra + self.missed, 1)

    @property
    def count_error(self) -> float:
        """Found over annotated cells, less 1."""
        return (self.extra - self.missed) / max(self.both + self.missed, 1)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.fields", description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder of annotated sets, or one set")
    parser.add_argument(
        "--sample", type=how_many, metavar="N", help="only N fields of each set, drawn by chance"
    )
    parser.add_argument(
        "--worst", type=int, default=6, metavar="N", help="how many fields of a set to draw (6)"
    )
    arguments = parser.parse_args()
    needs("skimage", "make fields", "fields")
    below = [path for path in sorted(arguments.folder.glob("*/")) if (path / "annotations.json").is_file()]
    for folder in below or [arguments.folder]:
        fields = annotations.read(folder, load_params().data.classes, annotations.UNLABELLED)
        if arguments.sample and arguments.sample < len(fields):
            fields = random.Random(0).sample(fields, arguments.sample)
        scores = [score(field, _pixels(field)) for field in fields]
        print(f"{folder.name}: {as_text(scores)}", flush=True)
        worst = sorted(zip(scores, fields, strict=True), key=lambda pair: pair[0].f1)[: arguments.worst]
        for place, (_, field) in enumerate(worst, 1):
            pixels = _pixels(field)
            found = find.find(pixels)
            matched = matching.match(found, field.marks)
            with files.atomic_path(REPORTS / f"{folder.name}-{place}.png") as part:
                matching.outlines(pixels, found, field.marks, matched).save(part)


def score(field: annotations.Annotated, pixels: images.Pixels) -> Score:
    """Find the cells of a field, and compare with its annotation; what is no red cell must not be found."""
    start = time.process_time()
    found = find.find(pixels)
    seconds = time.process_time() - start
    matched = matching.match(found, field.marks)
    whole = [field.marks[j].label != annotations.OTHER for i, j in matched.pairs if not found.cells[i].cut]
    boxes = any(mark.box[2] for mark in field.marks)
    return Score(sum(whole), len(matched.extra) + whole.count(False), len(matched.missed), boxes, seconds)


def as_text(scores: list[Score]) -> str:
    """The figures of a set, for a terminal."""
    both, extra, missed = (sum(getattr(s, name) for s in scores) for name in ("both", "extra", "missed"))
    seconds = np.array([s.seconds for s in scores])
    text = f"{len(scores)} fields, {both + missed:,} cells; recall {both / max(both + missed, 1):.3f}"
    if any(s.boxes for s in scores):
        off = np.abs([s.count_error for s in scores])
        f1 = 2 * both / max(2 * both + extra + missed, 1)
        text += (
            f", precision {both / max(both + extra, 1):.3f}, F1 {f1:.3f}; "
            f"count off by {np.median(off):.1%} (median), {np.quantile(off, 0.9):.1%} (nine of ten)"
        )
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return (
        f"{text}; {np.median(seconds):.2f} s (median), {seconds.max():.2f} s (most); {memory:,.0f} MiB so far"
    )


def _pixels(field: annotations.Annotated) -> images.Pixels:
    try:
        return images.read(field.image, images.Limits(find.LEAST_SIDE, MOST_PIXELS)).pixels
    except images.Unreadable as refusal:
        raise UserError(f"{field.image}: {refusal.reason}; leave it out.") from None


if __name__ == "__main__":
    end_with(main)
