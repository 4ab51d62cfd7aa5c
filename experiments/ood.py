"""Measure how well a bundle's out-of-distribution check tells cells from other pictures.

Runs the bundle on pictures that are no crop of one stained red cell (drawn pictures, spoilt cells, fields of
view, cuts of photographs that installed packages ship), and counts how many of each kind it turns away. The
check has learned from drawn pictures and spoilt cells of another seed, and from no such fields or
photographs. Also counts the cells that it turns away wrongly: out of fold, if there is a cross-validation,
and among the files of --cells. Writes the counts as a table.
"""

import importlib.util
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from experiments import pretrained
from malaria import bundle, paths, predict, tables
from malaria.bundle import not_cells
from malaria.cells import packed, synthetic
from malaria.cells.images import Pixels
from malaria.command import new_parser, positive, run_and_exit
from malaria.errors import UserError
from malaria.fields import synthetic as fields
from malaria.predict import inputs

# Folders in which installed packages keep pictures. The packages are not imported.
SHIPPED = {
    "scikit-image": ("skimage", "data"),
    "scikit-learn": ("sklearn", "datasets/images"),
    "Gradio": ("gradio", "media_assets/images"),
}
ENDINGS = (".png", ".jpg", ".jpeg", ".gif")

# Number of cells that spoilt cells are made from.
_CELLS = 400


def main() -> None:
    parser = new_parser("experiments.ood", __doc__)
    parser.add_argument("--model", type=Path, help="a bundle folder (default: models/pretrained)")
    parser.add_argument("--name", default="crossval", help="name of the cross-validation (crossval)")
    parser.add_argument("--cells", type=Path, nargs="*", default=[], help="files, folders, zips of cells")
    parser.add_argument("--count", type=positive, default=24, help="pictures of each kind (24)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the pictures (1)")
    parser.add_argument("--out", type=Path, default=Path("reports/ood.csv"), help="file for the table")
    arguments = parser.parse_args()
    model = bundle.load(arguments.model)
    if model.fitted_ood is None:
        raise UserError(
            f"{model.folder} has no out-of-distribution check: export it again, or name another with --model."
        )

    origin, cells = _cells(arguments.seed)
    count, seed = arguments.count, arguments.seed
    kinds = not_cells.all_kinds(cells, count, seed) | photographs(cells, count, seed) | _fields(count, seed)
    rows = [_row(kind, model.run(pictures).rejected) for kind, pictures in kinds.items()]
    rows += [_row(kind, rejected, cells=True) for kind, rejected in _out_of_fold(arguments.name).items()]
    rows += [_row(str(path), _reasons(model, path), cells=True) for path in arguments.cells]
    table = pd.DataFrame(rows)
    print(f"{model.folder}; spoilt cells are made from {origin}")
    print(table.assign(share=(table.rejected / table.pictures).round(4)).to_string(index=False))
    others = table[~table.cells]
    pictures, rejected = others.pictures.sum(), others.rejected.sum()
    print(f"{rejected:,} of {pictures:,} pictures turned away, {rejected / pictures:.1%}; ", end="")
    print(f"mean of {len(others)} kinds {(others.rejected / others.pictures).mean():.1%}")
    tables.write(table, arguments.out)
    print(f"\nThe table: {arguments.out}")


def _cells(seed: int) -> tuple[str, list[Pixels]]:
    """Where cells were found, in words, and some of them: packed cells if there are any, else drawn ones."""
    random = np.random.default_rng(seed)
    if not (paths.PACKED / packed.INDEX).is_file():
        return "drawn cells", [
            synthetic.draw(random, synthetic.stain(random), bool(random.integers(2))) for _ in range(_CELLS)
        ]
    images = packed.load(paths.PACKED).images
    return str(paths.PACKED), list(random.choice(images, min(_CELLS, len(images)), replace=False))


def photographs(cells: Sequence[Pixels], count: int, seed: int) -> dict[str, list[Pixels]]:
    """`2 * count` cuts of each package's photographs, each uint8 (h, w, 3), and `count` cut out along the
    outlines of `cells`.
    """
    kinds = {}
    for package, files in shipped().items():
        pictures = [_read(file) for file in files]
        generators = (not_cells.random_of(seed, package, number) for number in range(2 * count))
        kinds[f"photographs: {package}"] = [
            _cut(random, pictures[int(random.integers(len(pictures)))]) for random in generators
        ]
    if cuts := [cut for cuts_of_kind in kinds.values() for cut in cuts_of_kind]:
        kinds["photographs in a cell's outline"] = [
            not_cells.in_outline(cells[number % len(cells)], cuts[number * len(kinds)])
            for number in range(count)
        ]
    return kinds


def shipped() -> dict[str, list[Path]]:
    """The picture files of each package in `SHIPPED` that is installed."""
    files = {}
    for package, (module, folder) in SHIPPED.items():
        if (spec := importlib.util.find_spec(module)) and spec.origin:
            content = Path(spec.origin).parent.glob(f"{folder}/*")
            files[package] = sorted(file for file in content if file.suffix in ENDINGS)
    return {package: pictures for package, pictures in files.items() if pictures}


def _read(file: Path) -> Pixels:
    with Image.open(file) as image:
        white = Image.new("RGBA", image.size, "white")
        return np.asarray(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))


def _cut(random: not_cells.Random, picture: Pixels) -> Pixels:
    """A square of the picture or, once in five times, the whole picture made small."""
    height, width = picture.shape[:2]
    if random.random() < 0.2:
        scale = random.uniform(100, 500) / max(height, width)
        size = max(16, int(width * scale)), max(16, int(height * scale))
        return np.asarray(Image.fromarray(picture).resize(size))
    side = int(random.uniform(min(40, height, width), min(height, width) + 1))
    top, left = int(random.integers(0, height - side + 1)), int(random.integers(0, width - side + 1))
    cut = Image.fromarray(picture[top : top + side, left : left + side])
    size = (int(random.uniform(50, 200)),) * 2
    return np.asarray(cut.resize(size))


def _fields(count: int, seed: int) -> dict[str, list[Pixels]]:
    """Drawn fields of view by kind, `count` of each: thin films, thick films, empty and blurred ones."""
    kinds = (fields.THIN, fields.THICK, fields.EMPTY, fields.BLURRED)
    return {
        f"fields: {kind}": [
            fields.draw(not_cells.random_of(seed, kind, number), kind, size=(640, 480), cells=30)[0]
            for number in range(count)
        ]
        for kind in kinds
    }


def _out_of_fold(name: str) -> dict[str, pd.Series]:
    """Why each cell is turned away by the check of its fold (empty: it is not), at the limits of all folds.

    First for all cells, then for each fold; empty without a cross-validation.
    """
    if not (paths.CROSSVAL / f"{name}.csv").is_file():
        return {}
    results = pretrained.out_of_fold(name, packed.load(paths.PACKED))
    foreign, cells = results.foreign, results.cells
    print(f"{sum(foreign)} of {len(foreign)} patients are foreign to the fold that never saw them")
    of_folds = {f"fold {number}": rows.rejected for number, rows in cells.groupby("fold")}
    return {"out of fold": cells.rejected, **of_folds}


def _reasons(model: bundle.Bundle, path: Path) -> list[str | None]:
    predictions = predict.predict(model, inputs.find([str(path)]))
    rows = [row for row in predictions if row.status != predict.UNREADABLE]
    if not rows:
        raise UserError(f"{path} holds no readable image: name files, folders or zips of cells.")
    return [row.reason if row.status == predict.REJECTED else None for row in rows]


def _row(kind: str, rejected: Collection[str | None], *, cells: bool = False) -> dict[str, object]:
    """A row of the table: a kind, its pictures, how many are turned away, and the most frequent reason."""
    reasons = Counter(filter(None, rejected))
    return {
        "cells": cells,
        "kind": kind,
        "pictures": len(rejected),
        "rejected": reasons.total(),
        "reason": max(reasons, key=reasons.__getitem__, default=""),
    }


if __name__ == "__main__":
    run_and_exit(main)
