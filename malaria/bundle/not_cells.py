"""Pictures that are not a crop of one stained red cell: drawn pictures and spoilt cells.

Each kind stands for something that people give to such a model, by mistake or as a test. The
out-of-distribution check (`malaria.bundle.ood`) learns from some of them, and `make ood` tests it on others.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from malaria.cells import prepared
from malaria.cells.images import Pixels

Random = np.random.Generator
Floats = npt.NDArray[np.float64]
Option = TypeVar("Option")

# Words on drawn pages and screens.
_WORDS = ["the", "of", "a", "red", "cell", "blood", "patient", "smear", "stain", "slide", "count", "method"]


def all_kinds(cells: Sequence[Pixels], count: int, seed: int) -> dict[str, list[Pixels]]:
    """`count` pictures of each kind, each uint8 (h, w, 3), by the kind's name.

    Args:
        cells: crops of single cells on black, each uint8 (h, w, 3), from which the spoilt cells are made.
    """
    pictures = {}
    for name, draw in DRAWN.items():
        pictures[name] = [draw(random_of(seed, name, number)) for number in range(count)]
    for name, spoil in SPOILT.items():
        pictures[name] = [spoil(random_of(seed, name, number), cells) for number in range(count)]
    return pictures


def random_of(seed: int, kind: str, number: int) -> Random:
    """The generator of one picture, so that an added kind does not change the pictures of the others."""
    key = np.array([seed, 2**32 * zlib.crc32(kind.encode()) + number], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def _one_of(random: Random, options: Sequence[Option]) -> Option:
    return options[int(random.integers(len(options)))]


def _side(random: Random) -> int:
    """The side of a drawn picture, px: that of a cell crop, or larger."""
    return int(random.integers(50, 260))


def _canvas(random: Random) -> tuple[int, Floats, Floats]:
    """A side, px; and rows and columns from -1 to 1, each (side, side, 1)."""
    side = _side(random)
    y, x = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side), indexing="ij")
    return side, y[:, :, None], x[:, :, None]


def _colour(random: Random) -> Floats:
    return random.uniform(0, 255, 3)


def _ink(random: Random) -> tuple[int, ...]:
    """A colour to draw with."""
    return tuple(int(level) for level in _colour(random))


def _stain(random: Random) -> Floats:
    """A colour that Giemsa stain gives: pale pink to violet."""
    return random.uniform([150, 90, 120], [235, 190, 220])


def _pixels(values: Floats) -> Pixels:
    """Grey or coloured values, (h, w, 1) or (h, w, 3), as a picture."""
    return np.clip(np.round(values), 0, 255).astype(np.uint8) * np.ones(3, np.uint8)


def _blurred(values: Floats, radius: float) -> Floats:
    return np.asarray(Image.fromarray(_pixels(values)).filter(ImageFilter.GaussianBlur(radius)), np.float64)


def _clouds(random: Random, side: int, grain: float) -> Floats:
    """Clouds, (side, side, 1) from 0 to 1; `grain` is their size as a share of the side."""
    squares = max(2, round(1 / grain))
    image = Image.fromarray(random.random((squares, squares)).astype(np.float32))
    clouds = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float64)[:, :, None]
    lowest, highest = float(clouds.min()), float(clouds.max())
    return (clouds - lowest) / max(highest - lowest, 1e-9)


def _mix(share: Floats, first: Floats, second: Floats) -> Floats:
    return first + share * (second - first)


def _blank(random: Random) -> Pixels:
    side = _side(random)
    grey = np.full(3, random.uniform(0, 255))
    colour = _one_of(random, [np.full(3, 255.0), np.zeros(3), grey, _stain(random), _colour(random)])
    return _pixels(colour + random.normal(0, random.choice([0, 2]), (side, side, 1)))


def _noise(random: Random) -> Pixels:
    side, kind = _side(random), random.integers(4)
    if kind == 0:
        return _pixels(random.uniform(0, 255, (side, side, 3)))
    if kind == 1:
        return _pixels(random.normal(random.uniform(60, 200), random.uniform(10, 60), (side, side, 1)))
    if kind == 2:
        return _pixels(255 * (random.random((side, side, 1)) < 0.5).astype(float))
    return _pixels(_stain(random) + random.normal(0, random.uniform(5, 40), (side, side, 3)))


def _gradient(random: Random) -> Pixels:
    _, y, x = _canvas(random)
    angle = random.uniform(0, 2 * np.pi)
    linear = (np.cos(angle) * x + np.sin(angle) * y + 1.5) / 3
    share = linear if random.random() < 0.5 else np.hypot(x, y).clip(0, 1)
    return _pixels(_mix(share, _colour(random), _colour(random)))


def _text(random: Random) -> Pixels:
    side = _side(random) + 60
    paper = _one_of(random, [(255, 255, 255), (245, 240, 220), (0, 0, 0), (230, 200, 215)])
    page = Image.new("RGB", (side, side), paper)
    draw = ImageDraw.Draw(page)
    ink = (20, 20, 20) if sum(paper) > 300 else (230, 230, 230)
    size = int(random.integers(8, 26))
    font = ImageFont.load_default(size)
    for top in range(4, side, int(size * 1.4)):
        draw.text((4, top), " ".join(random.choice(_WORDS, 16)), fill=ink, font=font)
    return np.asarray(page)


def _stripes(random: Random) -> Pixels:
    _, y, x = _canvas(random)
    angle, waves = random.uniform(0, np.pi), random.uniform(2, 25)
    wave = np.sin(np.pi * waves * (np.cos(angle) * x + np.sin(angle) * y))
    share = (wave > 0).astype(float) if random.random() < 0.5 else (wave + 1) / 2
    return _pixels(_mix(share, _colour(random), _colour(random)))


def _checkerboard(random: Random) -> Pixels:
    side, squares = _side(random), int(random.integers(2, 16))
    square = np.arange(side) * squares // side
    share = ((square[:, None, None] + square[:, None]) % 2).astype(float)
    if random.random() < 0.5:
        return _pixels(255 * share)
    return _pixels(_mix(share, _colour(random), _colour(random)))


def _code(random: Random) -> Pixels:
    """A grid like a QR code, with a white margin."""
    squares = int(random.integers(21, 40))
    blocks = np.pad((random.random((squares, squares)) < 0.5) * np.uint8(255), 3, constant_values=255)
    side = _side(random)
    return np.asarray(Image.fromarray(blocks).resize((side, side), Image.Resampling.NEAREST).convert("RGB"))


def _shapes(random: Random) -> Pixels:
    """Flat shapes on a plain ground, which may be black or white."""
    side = _side(random)
    picture = Image.new("RGB", (side, side), _one_of(random, [(0, 0, 0), (255, 255, 255), _ink(random)]))
    draw = ImageDraw.Draw(picture)
    for _ in range(int(random.integers(1, 8))):
        (left, right), (top, bottom) = (np.sort(random.uniform(0, side, 2)) for _ in range(2))
        box = (float(left), float(top), float(right) + 4, float(bottom) + 4)
        fill, kind = _ink(random), random.integers(3)
        if kind == 0:
            draw.rectangle(box, fill=fill)
        elif kind == 1:
            draw.ellipse(box, fill=fill)
        else:
            draw.polygon([tuple(corner) for corner in random.uniform(0, side, (3, 2)).tolist()], fill=fill)
    return np.asarray(picture)


def _disc(random: Random) -> Pixels:
    """A disc of one colour on black, in the place of a cell: a drawing, not a cell."""
    _, y, x = _canvas(random)
    inside = np.hypot(y, x / random.uniform(0.8, 1.2)) < random.uniform(0.75, 0.95)
    colour = _stain(random) if random.random() < 0.5 else _colour(random).clip(40)
    shade = 1 - random.choice([0, 0.2]) * np.hypot(y, x)
    return _pixels(inside * shade * colour)


def _planet(random: Random) -> Pixels:
    """A disc on black with clouds in colours that no stain has."""
    side, y, x = _canvas(random)
    inside = np.hypot(y, x) < random.uniform(0.8, 0.97)
    clouds = _clouds(random, side, random.uniform(0.05, 0.3))
    return _pixels(inside * _mix(clouds, _colour(random), _colour(random)))


def _night_sky(random: Random) -> Pixels:
    side = _side(random)
    sky = np.zeros((side, side, 3))
    stars = random.integers(0, side, (int(random.integers(10, 150)), 2))
    light = random.uniform(120, 255, (len(stars), 1))
    sky[stars[:, 0], stars[:, 1]] = light * random.uniform(0.8, 1, (len(stars), 3))
    return _pixels(2 * _blurred(sky, random.uniform(0.3, 1.2)))


def _fluorescence(random: Random) -> Pixels:
    """Bright blobs of one pure colour on black, as a fluorescence microscope shows nuclei."""
    _, y, x = _canvas(random)
    light = np.zeros_like(y)
    for _ in range(int(random.integers(1, 14))):
        top, left = random.uniform(-0.9, 0.9, 2)
        light += np.exp(-((np.hypot(y - top, x - left) / random.uniform(0.08, 0.5)) ** 2))
    colour = _one_of(random, [(0, 255, 40), (40, 60, 255), (255, 30, 20), (0, 220, 220)])
    return _pixels(light.clip(0, 1) * colour)


def _histology(random: Random) -> Pixels:
    """Tissue up to every edge: crowded nuclei on fibres, in eosin and haematoxylin or in grey."""
    side, y, x = _canvas(random)
    fibres = _clouds(random, side, random.uniform(0.03, 0.15))
    tissue = _mix(fibres, np.array([215, 140, 180]), np.array([245, 215, 230]))
    for _ in range(int(random.integers(15, 60))):
        top, left = random.uniform(-1, 1, 2)
        nucleus = np.hypot(y - top, (x - left) * random.uniform(0.6, 1.6)) < random.uniform(0.04, 0.12)
        tissue = np.where(nucleus, np.array([95, 60, 140]) + random.normal(0, 12, (side, side, 1)), tissue)
    picture = _blurred(tissue, side / 150)
    if random.random() < 0.5:
        picture = picture.mean(axis=2, keepdims=True)
    return _pixels(picture + random.normal(0, 4, (side, side, 1)))


def _phase_contrast(random: Random) -> Pixels:
    """Grey rings on grey, as a microscope shows cells without stain."""
    side, y, x = _canvas(random)
    light = random.uniform(110, 170) + 25 * (_clouds(random, side, 0.3) - 0.5)
    for _ in range(int(random.integers(1, 9))):
        top, left = random.uniform(-0.9, 0.9, 2)
        distance = np.hypot(y - top, x - left) / random.uniform(0.15, 0.6)
        light += 70 * np.exp(-(((distance - 1) / 0.12) ** 2)) - 30 * np.exp(-((distance / 0.5) ** 2))
    return _pixels(light + random.normal(0, 3, (side, side, 1)))


def _chart(random: Random) -> Pixels:
    side = _side(random) + 40
    page = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(page)
    bottom, left = int(side * 0.9), int(side * 0.1)
    draw.line((left, 4, left, bottom, side - 4, bottom), fill="black", width=2)
    bars = int(random.integers(3, 9))
    for bar in range(bars):
        start = left + 6 + bar * (side - left - 12) // bars
        top = random.uniform(0.1, 0.85) * side
        draw.rectangle((start, top, start + side // (2 * bars), bottom), fill=_ink(random))
    return np.asarray(page)


def _screen(random: Random) -> Pixels:
    """A program's window with buttons."""
    side = _side(random) + 60
    width, dark = int(side * 1.5), bool(random.integers(2))
    page = Image.new("RGB", (width, side), (32, 34, 40) if dark else (246, 246, 248))
    draw = ImageDraw.Draw(page)
    draw.rectangle((0, 0, width, side // 10), fill=_ink(random))
    for _ in range(int(random.integers(3, 8))):
        left, top = random.uniform(0, side), random.uniform(side * 0.15, side * 0.9)
        button = (left, top, left + random.uniform(30, side / 2), top + side / 9)
        draw.rounded_rectangle(button, radius=4, fill=_ink(random))
        draw.text((left + 4, top + 2), str(random.choice(_WORDS)), fill="white" if dark else "black")
    return np.asarray(page)


def _landscape(random: Random) -> Pixels:
    """Sky above hills, as in a simple photograph."""
    side, y, x = _canvas(random)
    horizon = random.uniform(-0.3, 0.5) + 0.2 * np.sin(random.uniform(1, 4) * x + random.uniform(0, 6))
    sky = _mix((y + 1) / 2, random.uniform([60, 110, 170], [150, 190, 255]), np.array([235.0, 225, 215]))
    clouds, green = _clouds(random, side, 0.06), random.uniform([30, 60, 10], [110, 120, 60])
    land = _mix(clouds, green, np.array([150.0, 140, 90]))
    return _pixels(np.where(y > horizon, land, sky) + random.normal(0, 4, (side, side, 3)))


def _plasma(random: Random) -> Pixels:
    """Clouds of colours, up to every edge."""
    side, grain = _side(random), random.uniform(0.04, 0.5)
    return _pixels(255 * np.dstack([_clouds(random, side, grain) for _ in range(3)]))


def _mask(cell: Pixels) -> npt.NDArray[np.bool_]:
    """Which pixels belong to the cell and not to the black around it, bool (h, w, 1)."""
    return prepared.cell_mask(cell)[:, :, None]


def _resized(cell: Pixels, side: int) -> Pixels:
    return np.asarray(Image.fromarray(cell).resize((side, side)))


def _field(random: Random, cells: Sequence[Pixels]) -> Pixels:
    """A whole field of a smear: many cells on a bright ground."""
    side = int(random.integers(200, 420))
    ground = random.uniform([215, 205, 205], [250, 240, 245])
    picture = Image.fromarray(_pixels(ground + random.normal(0, 2, (side, side, 1))))
    width = side / random.uniform(3, 9)
    for _ in range(int(random.integers(10, 60))):
        _paste(random, picture, _one_of(random, cells), width)
    return np.asarray(picture)


def _cluster(random: Random, cells: Sequence[Pixels]) -> Pixels:
    """Several cells on black."""
    side = int(random.integers(150, 300))
    picture = Image.new("RGB", (side, side))
    for _ in range(int(random.integers(2, 7))):
        _paste(random, picture, _one_of(random, cells), side / random.uniform(2, 3.5))
    return np.asarray(picture)


def _tiles(random: Random, cells: Sequence[Pixels]) -> Pixels:
    """A contact sheet of cells."""
    rows, columns, side = random.integers([1, 2, 50], [4, 4, 120]).tolist()
    return _mosaic([_resized(_one_of(random, cells), side) for _ in range(rows * columns)], columns)


def _piece(random: Random, cells: Sequence[Pixels]) -> Pixels:
    """The inside of a cell, without its outline."""
    cell = _one_of(random, cells)
    height, width = cell.shape[:2]
    top, left = (int(side * random.uniform(0.25, 0.35)) for side in (height, width))
    return np.ascontiguousarray(cell[top : height - top, left : width - left])


def _inverted(random: Random, cells: Sequence[Pixels]) -> Pixels:
    cell = _one_of(random, cells)
    return 255 - cell if random.random() < 0.5 else np.where(_mask(cell), 255 - cell, np.uint8(0))


def _other_hue(random: Random, cells: Sequence[Pixels]) -> Pixels:
    """A cell in yellow, green or light blue, which no Giemsa stain gives."""
    cell = _one_of(random, cells)
    hue, saturation, value = Image.fromarray(cell).convert("HSV").split()
    hues = np.asarray(hue, dtype=np.int64)
    # The circle of hues has 256 steps: 40 is yellow, 85 green, 140 light blue.
    shifted = (hues - int(np.median(hues[prepared.cell_mask(cell)])) + int(random.integers(35, 145))) % 256
    saturated = np.maximum(np.asarray(saturation), 90)
    planes = [Image.fromarray(plane.astype(np.uint8)) for plane in (shifted, saturated)]
    return np.asarray(Image.merge("HSV", (*planes, value)).convert("RGB"))


def _grey(random: Random, cells: Sequence[Pixels]) -> Pixels:
    """A cell without its colour."""
    cell = _one_of(random, cells)
    return _pixels(_mask(cell) * cell.mean(axis=2, keepdims=True) * random.uniform(0.7, 1.3))


def _noisy(random: Random, cells: Sequence[Pixels]) -> Pixels:
    """The outline of a cell, filled with noise."""
    cell = _one_of(random, cells)
    inside = _mask(cell)
    grains = random.normal(0, random.uniform(35, 70), cell.shape)
    return _pixels(inside * (cell[inside[:, :, 0]].mean(axis=0) + grains))


def _clouded(random: Random, cells: Sequence[Pixels]) -> Pixels:
    """Clouds of colour, cut out on black along the outline of a cell."""
    return in_outline(_one_of(random, cells), _plasma(random))


def in_outline(cell: Pixels, picture: Pixels) -> Pixels:
    """`picture`, cut out on black along the outline of `cell`."""
    return np.where(_mask(cell), np.asarray(Image.fromarray(picture).resize(cell.shape[1::-1])), 0)


def _shredded(random: Random, cells: Sequence[Pixels]) -> Pixels:
    """A cell's own tiles, shuffled."""
    cell = _resized(_one_of(random, cells), 120)
    tiles = cell.reshape(4, 30, 4, 30, 3).swapaxes(1, 2).reshape(16, 30, 30, 3)
    return _mosaic(list(tiles[random.permutation(16)]), 4)


def _mosaic(tiles: Sequence[Pixels], columns: int) -> Pixels:
    """Tiles of one size, row by row."""
    rows = [np.hstack(tiles[first : first + columns]) for first in range(0, len(tiles), columns)]
    return np.vstack(rows)


def _paste(random: Random, picture: Image.Image, cell: Pixels, width: float) -> None:
    """Paste a cell at a random place, about `width` px wide."""
    size = max(12, int(width * random.uniform(0.85, 1.15)))
    mask = _resized(prepared.cell_mask(cell).astype(np.uint8) * 255, size)
    left, top = random.integers(-size // 4, max(picture.width - 3 * size // 4, 1), 2)
    picture.paste(Image.fromarray(_resized(cell, size)), (int(left), int(top)), Image.fromarray(mask))


DRAWN: dict[str, Callable[[Random], Pixels]] = {
    "blank": _blank,
    "noise": _noise,
    "gradients": _gradient,
    "text pages": _text,
    "stripes": _stripes,
    "checkerboards": _checkerboard,
    "codes": _code,
    "flat shapes": _shapes,
    "even discs on black": _disc,
    "planets": _planet,
    "night skies": _night_sky,
    "fluorescence": _fluorescence,
    "tissue": _histology,
    "phase contrast": _phase_contrast,
    "charts": _chart,
    "screens": _screen,
    "landscapes": _landscape,
    "clouds of colour": _plasma,
}

SPOILT: dict[str, Callable[[Random, Sequence[Pixels]], Pixels]] = {
    "smear fields": _field,
    "cell clusters": _cluster,
    "contact sheets": _tiles,
    "inside of a cell": _piece,
    "inverted cells": _inverted,
    "cells of another hue": _other_hue,
    "grey cells": _grey,
    "noise in a cell's outline": _noisy,
    "clouds in a cell's outline": _clouded,
    "shuffled cells": _shredded,
}
