"""Measure what everyday distortions of labelled cells cost: cells turned away, and the network's accuracy.

One bundle answers for all cells or, with --name, the fold of a cross-validation that never saw the cell's
patient. The accuracy counts the network's answer for every cell, turned away or not.
"""

import io
import tempfile
from collections.abc import Callable
from functools import partial
from operator import methodcaller
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image, ImageFilter, ImageOps

from experiments import experiment
from malaria import bundle, labels, params
from malaria.cells import images
from malaria.command import new_parser, run_and_exit
from malaria.errors import UserError
from malaria.fetch import laboratories

Distort = Callable[[Image.Image], Image.Image]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]

# A pixel that is darker than this in every channel lies outside of the cell.
_BLACK = 12


def main() -> None:
    parser = new_parser("experiments.distortions", __doc__)
    parser.add_argument("cells", type=Path, help="a folder, zip or tar with class folders, of crops on black")
    parser.add_argument("--model", type=Path, help="a bundle folder (default: models/pretrained)")
    parser.add_argument("--name", help="name of a cross-validation, whose folds answer instead")
    arguments = parser.parse_args()
    settings = params.load_params()
    with tempfile.TemporaryDirectory() as temporary:
        table, _ = laboratories.place(arguments.cells, Path(temporary, "cells"), settings)
        limits = images.Limits(settings.audit.min_side, settings.audit.max_pixels)
        cells = [Image.fromarray(images.read(Path(temporary, path), limits).pixels) for path in table.path]
    groups = _groups(table, arguments.name, arguments.model)
    y = labels.values(table.label) == 1
    costs = pd.DataFrame({name: _cost(distort, cells, y, groups) for name, distort in DISTORTIONS.items()}).T
    costs["points lost"] = 100 * (costs.accuracy["none"] - costs.accuracy)
    print(f"{len(cells):,} cells of {arguments.cells}")
    print(costs.to_string(float_format="{:.3f}".format))


def _cost(
    distort: Distort, cells: list[Image.Image], y: Bools, groups: list[tuple[bundle.Bundle, Rows]]
) -> dict[str, float]:
    rejected, hits = np.zeros_like(y), np.zeros_like(y)
    for model, rows in groups:
        predictions = model.run([np.asarray(distort(cells[row])) for row in rows])
        rejected[rows] = [reason is not None for reason in predictions.rejected]
        hits[rows] = (predictions.p_parasitized >= 0.5) == y[rows]
    flags = {"parasitised turned away": rejected[y], "uninfected turned away": rejected[~y], "accuracy": hits}
    return {name: float(flag.mean()) if len(flag) else np.nan for name, flag in flags.items()}


def _groups(table: pd.DataFrame, name: str | None, model: Path | None) -> list[tuple[bundle.Bundle, Rows]]:
    """The bundles, each with the rows of the cells in `table` that it answers for.

    Raises:
        UserError: no fold of the cross-validation has judged a cell of `table`.
    """
    if name is None:
        return [(bundle.load(model, threads=1), np.arange(len(table)))]
    predictions = experiment.predictions(name)
    fold_of = {Path(path).stem: fold for path, fold in zip(predictions.path, predictions.fold, strict=True)}
    folds = np.array([fold_of.get(Path(path).stem, -1) for path in table.path])
    if unknown := int((folds < 0).sum()):
        raise UserError(
            f"{unknown:,} of {len(table):,} cells are not among those of {name}: give cells that its folds "
            "have judged, or ask one bundle, without --name."
        )
    numbers = np.unique(folds)
    return [(experiment.bundle_of(f"{name}-{fold}"), np.flatnonzero(folds == fold)) for fold in numbers]


def _margin(share: float, cell: Image.Image) -> Image.Image:
    return ImageOps.expand(cell, round(share * max(cell.size)))


def _canvas(side: int, cell: Image.Image) -> Image.Image:
    border = (max(0, side - cell.width) // 2, max(0, side - cell.height) // 2)
    return ImageOps.expand(cell, border)


def _gain(red: float, green: float, blue: float, cell: Image.Image) -> Image.Image:
    return cell.point([min(255, int(level * gain)) for gain in (red, green, blue) for level in range(256)])


def _noise(strength: float, cell: Image.Image) -> Image.Image:
    noise = np.random.default_rng(1).normal(0, strength, (cell.height, cell.width, 3))
    return Image.fromarray((np.asarray(cell) + noise).clip(0, 255).astype(np.uint8))


def _jpeg(quality: int, cell: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    cell.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def _on_colour(red: int, green: int, blue: int, cell: Image.Image) -> Image.Image:
    pixels = np.asarray(cell)
    outside = pixels.max(axis=2, keepdims=True) < _BLACK
    return Image.fromarray(np.where(outside, np.array([red, green, blue], dtype=np.uint8), pixels))


def _resize(width: int, height: int) -> Distort:
    return methodcaller("resize", (width, height), Image.Resampling.BOX)


def _rotate(degrees: float) -> Distort:
    return methodcaller("rotate", degrees, Image.Resampling.BILINEAR, expand=True)


DISTORTIONS: dict[str, Distort] = {
    "none": lambda cell: cell,
    **{f"black margin of {share:.0%}": partial(_margin, share) for share in (0.15, 0.2, 0.25)},
    **{f"on a canvas of {side} px": partial(_canvas, side) for side in (160, 200)},
    **{f"turned by {degrees} degrees": _rotate(degrees) for degrees in (30, 45, 90)},
    **{f"light at {gain:.0%}": partial(_gain, gain, gain, gain) for gain in (1.2, 1.1, 0.8, 0.6)},
    **{f"warmer by {by:.0%}": partial(_gain, 1 + by, 1, 1 - by) for by in (0.1, 0.2)},
    **{f"colder by {by:.0%}": partial(_gain, 1 - by, 1, 1 + by) for by in (0.1, 0.2)},
    **{f"blurred by {by:g} px": methodcaller("filter", ImageFilter.GaussianBlur(by)) for by in (1, 1.5, 2)},
    "noise of 10 grey levels": partial(_noise, 10),
    **{f"crop of {side} px": _resize(side, side) for side in (40, 36, 32, 224)},
    "squeezed to 60 x 120 px": _resize(60, 120),
    **{f"JPEG quality {quality}": partial(_jpeg, quality) for quality in (75, 30, 10)},
    "on white": partial(_on_colour, 255, 255, 255),
    "on a field's colour": partial(_on_colour, 225, 215, 220),
    "on dark grey": partial(_on_colour, 30, 30, 30),
    "without colour": lambda cell: cell.convert("L").convert("RGB"),
    "12 bits read as 16": lambda cell: cell.point(lambda value: value // 16),
}  # fmt: skip


if __name__ == "__main__":
    run_and_exit(main)
