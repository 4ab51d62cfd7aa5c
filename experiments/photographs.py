"""Cuts of photographs that installed packages ship; the out-of-distribution check never learned from them."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from malaria.bundle import not_cells
from malaria.bundle.not_cells import Random
from malaria.cells.images import Pixels

# Folders in which installed packages keep pictures. The packages are not imported.
SHIPPED = {
    "scikit-image": ("skimage", "data"),
    "scikit-learn": ("sklearn", "datasets/images"),
    "Gradio": ("gradio", "media_assets/images"),
}
ENDINGS = (".png", ".jpg", ".jpeg", ".gif")


def all_kinds(cells: Sequence[Pixels], count: int, seed: int) -> dict[str, list[Pixels]]:
    """`2 * count` cuts of each package's photographs, each uint8 (h, w, 3), and `count` cut out along the
    outlines of `cells`.
    """
    found = {}
    for package, below in shipped().items():
        pictures = [_read(file) for file in below]
        found[f"photographs: {package}"] = [
            _cut(random, pictures[int(random.integers(len(pictures)))])
            for random in (not_cells.random_of(seed, package, number) for number in range(2 * count))
        ]
    if cuts := [cut for of_kind in found.values() for cut in of_kind]:
        found["photographs in a cell's outline"] = [
            not_cells.in_outline(cells[number % len(cells)], cuts[number * len(found)])
            for number in range(count)
        ]
    return found


def shipped() -> dict[str, list[Path]]:
    """The picture files of each package in `SHIPPED` that is installed."""
    found = {}
    for package, (module, folder) in SHIPPED.items():
        if (spec := importlib.util.find_spec(module)) and spec.origin:
            below = Path(spec.origin).parent / folder
            found[package] = sorted(file for file in below.glob("*") if file.suffix in ENDINGS)
    return {package: files for package, files in found.items() if files}


def _read(file: Path) -> Pixels:
    with Image.open(file) as image:
        white = Image.new("RGBA", image.size, "white")
        return np.asarray(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))


def _cut(random: Random, picture: Pixels) -> Pixels:
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
