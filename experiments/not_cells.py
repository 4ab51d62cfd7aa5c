"""Pictures that are no crop of one stained red cell: drawn ones, spoilt cells, and photographs.

Each kind stands for something that people give to such a model, by mistake or to see what it says. All
are drawn from a seed; photographs are cuts of pictures that installed packages carry, of pages, tissue,
landscapes and the night sky among others.
"""

import importlib.util
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from malaria.cells.images import Pixels

Random = np.random.Generator
Floats = npt.NDArray[np.float64]

# Where installed packages keep pictures. None is imported: only their files are read.
SHIPPED = {
    "scikit-image": ("skimage", "data"),
    "scikit-learn": ("sklearn", "datasets/images"),
    "Gradio": ("gradio", "media_assets/images"),
}


def all_kinds(cells: Sequence[Pixels], count: int, seed: int) -> dict[str, list[Pixels]]:
    """`count` pictures of each kind, each uint8 (h, w, 3), by the kind's name.

    Args:
        cells: crops of single cells on black, each uint8 (h, w, 3), which spoilt ones are made from.
    """

    def take(random: Random) -> Pixels:
        return cells[int(random.integers(len(cells)))]

    found = {}
    for name, draw in DRAWN.items():
        found[name] = [draw(_random(seed, name, number)) for number in range(count)]
    for name, spoil in SPOILT.items():
        found[name] = [spoil(_random(seed, name, number), take) for number in range(count)]
    for package, below in shipped().items():
        pictures = [_read(file) for file in below]
        found[f"photographs: {package}"] = [
            _cut(random, pictures[int(random.integers(len(pictures)))])
            for random in (_random(seed, package, number) for number in range(2 * count))
        ]
    return found


def shipped() -> dict[str, list[Path]]:
    """The picture files of each package in `SHIPPED` that is installed."""
    found = {}
    for package, (module, folder) in SHIPPED.items():
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.submodule_search_locations:
            below = Path(spec.submodule_search_locations[0]) / folder
            files = sorted(
                file for file in below.glob("*") if file.suffix in (".png", ".jpg", ".jpeg", ".gif")
            )
            if files:
                found[package] = files
    return found


def _random(seed: int, kind: str, number: int) -> Random:
    """Of the picture's own, so that a kind more changes none of the others."""
    key = np.array([seed, 2**32 * zlib.crc32(kind.encode()) + number], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def _read(file: Path) -> Pixels:
    with Image.open(file) as image:
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            return np.asarray(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))
        return np.asarray(image.convert("RGB"))


def _cut(random: Random, picture: Pixels) -> Pixels:
    """The whole picture, made small, or a square of it."""
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


def _side(random: Random) -> int:
    """The side of a drawn picture, px: as crops of cells have it, and larger."""
    return int(random.integers(50, 260))


def _colour(random: Random) -> Floats:
    return random.uniform(0, 255, 3)


def _stain(random: Random) -> Floats:
    """A colour as Giemsa gives it: pale pink to violet."""
    return random.uniform([150, 90, 120], [235, 190, 220])


def _grid(side: int) -> tuple[Floats, Floats]:
    """Rows and columns from -1 to 1, each (side, side)."""
    y, x = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side), indexing="ij")
    return y, x


def _pixels(values: Floats) -> Pixels:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def _smooth(random: Random, side: int, grain: float) -> Floats:
    """Clouds, (side, side) from 0 to 1; `grain` is their size as a share of the side."""
    cells = max(2, round(1 / grain))
    image = Image.fromarray(random.random((cells, cells)).astype(np.float32))
    clouds = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float64)
    lowest, highest = float(clouds.min()), float(clouds.max())
    return (clouds - lowest) / max(highest - lowest, 1e-9)


def _mix(share: Floats, first: Floats, second: Floats) -> Floats:
    return first + share[:, :, None] * (second - first)


def _blank(random: Random) -> Pixels:
    side = _side(random)
    plain: list[Floats] = [np.full(3, 255.0), np.zeros(3), np.full(3, random.uniform(0, 255)), _stain(random)]
    colour = [*plain, _colour(random)][int(random.integers(5))]
    return _pixels(colour + random.normal(0, random.choice([0, 2]), (side, side, 1)))


def _noise(random: Random) -> Pixels:
    side = _side(random)
    kind = random.integers(4)
    if kind == 0:
        return _pixels(random.uniform(0, 255, (side, side, 3)))
    if kind == 1:
        grey = random.normal(random.uniform(60, 200), random.uniform(10, 60), (side, side, 1))
        return _pixels(grey * np.ones(3))
    if kind == 2:
        return _pixels(255.0 * (random.random((side, side, 1)) < 0.5) * np.ones(3))
    return _pixels(_stain(random) + random.normal(0, random.uniform(5, 40), (side, side, 3)))


def _gradient(random: Random) -> Pixels:
    side = _side(random)
    y, x = _grid(side)
    angle = random.uniform(0, 2 * np.pi)
    linear = (np.cos(angle) * x + np.sin(angle) * y + 1.5) / 3
    share = linear if random.random() < 0.5 else np.hypot(x, y).clip(0, 1)
    return _pixels(_mix(share, _colour(random), _colour(random)))


def _checkerboard(random: Random) -> Pixels:
    side, squares = _side(random), int(random.integers(2, 16))
    at = np.arange(side) * squares // side
    share = ((at[:, None] + at) % 2).astype(float)
    colours = (
        (np.zeros(3), np.full(3, 255.0)) if random.random() < 0.5 else (_colour(random), _colour(random))
    )
    return _pixels(_mix(share, *colours))


def _shapes(random: Random) -> Pixels:
    """Flat shapes on a plain ground, black or white among them."""
    side = _side(random)
    ground = [(0, 0, 0), (255, 255, 255), tuple(int(v) for v in _colour(random))][int(random.integers(3))]
    picture = Image.new("RGB", (side, side), ground)
    draw = ImageDraw.Draw(picture)
    for _ in range(int(random.integers(1, 8))):
        (left, right), (top, bottom) = (np.sort(random.uniform(0, side, 2)) for _ in range(2))
        box = (float(left), float(top), float(right) + 4, float(bottom) + 4)
        fill = tuple(int(v) for v in _colour(random))
        kind = random.integers(3)
        if kind == 0:
            draw.rectangle(box, fill=fill)
        elif kind == 1:
            draw.ellipse(box, fill=fill)
        else:
            draw.polygon([tuple(corner) for corner in random.uniform(0, side, (3, 2)).tolist()], fill=fill)
    return np.asarray(picture)


def _disc(random: Random) -> Pixels:
    """A disc of one colour on black, where a cell would be: a drawing of a cell, and no cell."""
    side = _side(random)
    y, x = _grid(side)
    inside = np.hypot(y, x / random.uniform(0.8, 1.2)) < random.uniform(0.75, 0.95)
    colour = _stain(random) if random.random() < 0.5 else _colour(random).clip(40)
    shade = 1 - random.choice([0, 0.2]) * np.hypot(y, x)
    return _pixels((inside * shade)[:, :, None] * colour)


def _planet(random: Random) -> Pixels:
    """A disc on black with clouds in colours that no stain has."""
    side = _side(random)
    y, x = _grid(side)
    inside = np.hypot(y, x) < random.uniform(0.8, 0.97)
    surface = _mix(_smooth(random, side, random.uniform(0.05, 0.3)), _colour(random), _colour(random))
    return _pixels(inside[:, :, None] * surface)


def _fluorescence(random: Random) -> Pixels:
    """Bright blobs of one pure colour on black, as a fluorescence microscope shows nuclei."""
    side = _side(random)
    y, x = _grid(side)
    light = np.zeros((side, side))
    for _ in range(int(random.integers(1, 14))):
        top, left = random.uniform(-0.9, 0.9, 2)
        light += np.exp(-((np.hypot(y - top, x - left) / random.uniform(0.08, 0.5)) ** 2))
    colour = np.array([[0, 255, 40], [40, 60, 255], [255, 30, 20], [0, 220, 220]])[random.integers(4)]
    return _pixels(light.clip(0, 1)[:, :, None] * colour)


def _phase_contrast(random: Random) -> Pixels:
    """Grey rings on grey: cells as a microscope without stain shows them."""
    side = _side(random)
    y, x = _grid(side)
    light = random.uniform(110, 170) + 25 * (_smooth(random, side, 0.3) - 0.5)
    for _ in range(int(random.integers(1, 9))):
        top, left = random.uniform(-0.9, 0.9, 2)
        away = np.hypot(y - top, x - left) / random.uniform(0.15, 0.6)
        light += 70 * np.exp(-(((away - 1) / 0.12) ** 2)) - 30 * np.exp(-((away / 0.5) ** 2))
    return _pixels((light + random.normal(0, 3, (side, side)))[:, :, None] * np.ones(3))


def _plasma(random: Random) -> Pixels:
    """Clouds of colours, to every edge."""
    side, grain = _side(random), random.uniform(0.04, 0.5)
    return _pixels(255 * np.stack([_smooth(random, side, grain) for _ in range(3)], axis=2))


Take = Callable[[Random], Pixels]


def _part_of(cell: Pixels) -> npt.NDArray[np.bool_]:
    """Which pixels are cell and not the black around it, bool (h, w, 1)."""
    inside: npt.NDArray[np.bool_] = cell.max(axis=2, keepdims=True) > 16
    return inside


def _field(random: Random, take: Take) -> Pixels:
    """A whole field of a smear: many cells on a bright ground."""
    side = int(random.integers(200, 420))
    ground = np.broadcast_to(random.uniform([215, 205, 205], [250, 240, 245]), (side, side, 3))
    picture = Image.fromarray(_pixels(ground + random.normal(0, 2, (side, side, 1))))
    across = side / random.uniform(3, 9)
    for _ in range(int(random.integers(10, 60))):
        _paste(random, picture, take(random), across)
    return np.asarray(picture)


def _cluster(random: Random, take: Take) -> Pixels:
    """Several cells on black."""
    side = int(random.integers(150, 300))
    picture = Image.new("RGB", (side, side))
    for _ in range(int(random.integers(2, 7))):
        _paste(random, picture, take(random), side / random.uniform(2, 3.5))
    return np.asarray(picture)


def _tiles(random: Random, take: Take) -> Pixels:
    """A contact sheet of cells."""
    rows, columns, size = (
        int(random.integers(1, 4)),
        int(random.integers(2, 4)),
        int(random.integers(50, 120)),
    )
    cells = [
        [np.asarray(Image.fromarray(take(random)).resize((size, size))) for _ in range(columns)]
        for _ in range(rows)
    ]
    return np.concatenate([np.concatenate(row, axis=1) for row in cells])


def _piece(random: Random, take: Take) -> Pixels:
    """The inside of a cell, without its outline."""
    cell = take(random)
    height, width = cell.shape[:2]
    top, left = (int(side * random.uniform(0.25, 0.35)) for side in (height, width))
    return np.ascontiguousarray(cell[top : height - top, left : width - left])


def _inverted(random: Random, take: Take) -> Pixels:
    cell = take(random)
    if random.random() < 0.5:
        return 255 - cell
    return np.where(_part_of(cell), 255 - cell, 0).astype(np.uint8)


def _other_hue(random: Random, take: Take) -> Pixels:
    """A cell in yellow, green or light blue, as no Giemsa stain has it."""
    cell = take(random)
    hue, saturation, value = Image.fromarray(cell).convert("HSV").split()
    hues = np.asarray(hue, dtype=np.int64)
    # The circle of hues has 256 steps: 40 is yellow, 85 green, 140 light blue.
    turned = (hues - int(np.median(hues[_part_of(cell)[:, :, 0]])) + int(random.integers(35, 145))) % 256
    strong = np.maximum(np.asarray(saturation), 90)
    planes = [Image.fromarray(plane.astype(np.uint8)) for plane in (turned, strong)]
    return np.asarray(Image.merge("HSV", (*planes, value)).convert("RGB"))


def _grey(random: Random, take: Take) -> Pixels:
    """A cell without its colour."""
    cell = take(random)
    gain = random.uniform(0.7, 1.3)
    return np.where(_part_of(cell), _pixels(cell.mean(axis=2, keepdims=True) * gain), 0) * np.ones(
        3, np.uint8
    )


def _noisy(random: Random, take: Take) -> Pixels:
    """The outline of a cell, filled with noise."""
    cell = take(random)
    inside = _part_of(cell)
    grains = random.normal(0, random.uniform(35, 70), cell.shape)
    return np.where(inside, _pixels(cell[inside[:, :, 0]].mean(axis=0) + grains), 0)


def _cut_photograph(random: Random, take: Take) -> Pixels:
    """A piece of a photograph, or clouds of colour, cut out on black along the outline of a cell."""
    cell = take(random)
    height, width = cell.shape[:2]
    files = [file for below in shipped().values() for file in below]
    picture = _plasma(random)
    if files and random.random() < 0.8:
        picture = _cut(random, _read(files[int(random.integers(len(files)))]))
    stretched = np.asarray(Image.fromarray(picture).resize((width, height)))
    return np.where(_part_of(cell), stretched, 0)


def _shredded(random: Random, take: Take) -> Pixels:
    """A cell's own tiles, shuffled."""
    cell = np.asarray(Image.fromarray(take(random)).resize((120, 120)))
    tiles = [
        cell[top : top + 30, left : left + 30] for top in range(0, 120, 30) for left in range(0, 120, 30)
    ]
    order = random.permutation(16)
    return np.concatenate([np.concatenate([tiles[at] for at in row], axis=1) for row in order.reshape(4, 4)])


def _paste(random: Random, picture: Image.Image, cell: Pixels, across: float) -> None:
    """Paste a cell somewhere, about `across` px wide."""
    size = max(12, int(across * random.uniform(0.85, 1.15)))
    mask = Image.fromarray(_part_of(cell)[:, :, 0].astype(np.uint8) * 255).resize((size, size))
    left, top = random.integers(-size // 4, max(picture.width - 3 * size // 4, 1), 2)
    picture.paste(Image.fromarray(cell).resize((size, size)), (int(left), int(top)), mask)


DRAWN: dict[str, Callable[[Random], Pixels]] = {
    "blank": _blank,
    "noise": _noise,
    "gradients": _gradient,
    "checkerboards": _checkerboard,
    "flat shapes": _shapes,
    "even discs on black": _disc,
    "planets": _planet,
    "fluorescence": _fluorescence,
    "phase contrast": _phase_contrast,
    "clouds of colour": _plasma,
}

SPOILT: dict[str, Callable[[Random, Take], Pixels]] = {
    "smear fields": _field,
    "cell clusters": _cluster,
    "contact sheets": _tiles,
    "inside of a cell": _piece,
    "inverted cells": _inverted,
    "cells of another hue": _other_hue,
    "grey cells": _grey,
    "noise in a cell's outline": _noisy,
    "photographs in a cell's outline": _cut_photograph,
    "shuffled cells": _shredded,
}
