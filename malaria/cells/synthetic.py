"""Synthetic red-cell crops of Giemsa-stained thin smears, drawn from random numbers alone.

They have what makes the real task hard: one stain and illumination per patient, rings a few pixels
wide (some on the cell's rim), and platelets, precipitate, Howell-Jolly-like dots and blur that look
like parasites at a glance. They show that the pipeline works, and nothing about medicine.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

Random = np.random.Generator
Floats = npt.NDArray[np.float64]
Point = tuple[float, float]

# Sides of the NIH crops, px: 46 to 394, mean about 133.
SMALLEST, LARGEST, USUAL = 46, 394, 130
# The colour of chromatin, as a factor on the parasite's colour by channel; the colour of pigment, RGB.
CHROMATIN = np.array([0.85, 0.5, 0.8])
PIGMENT = np.array([80.0, 58.0, 40.0])


@dataclass(frozen=True)
class Stain:
    """How a patient's smear looks.

    cell, parasite: colours, RGB in [0, 255]. pallor: brightening at the cell's centre, as a share. light:
    gradient of the illumination in x and y, as shares. side: usual side of a crop, in px.
    """

    cell: Floats
    parasite: Floats
    pallor: float
    light: Floats
    side: float


@dataclass(frozen=True)
class Canvas:
    """A cell being drawn.

    image: RGB, (h, w, 3). x, y: coordinates of each pixel, (h, w), from -1 to 1 over the crop; 1 is about a
    cell radius. inside: 1 in the cell, 0 outside. pixel: width of a pixel in these coordinates.
    """

    image: Floats
    x: Floats
    y: Floats
    inside: Floats
    pixel: float

    def paint(self, opacity: Floats, colour: Floats) -> None:
        """Blend in `colour`, with the weights `opacity`, (h, w) in [0, 1]."""
        np.add(self.image, opacity[:, :, None] * (colour - self.image), out=self.image)

    def disc(self, x: float, y: float, radius: float, edge: float = 0.0) -> Floats:
        """1 inside a disc, 0 outside, with an edge at least a pixel wide."""
        return _edge(radius - np.hypot(self.x - x, self.y - y), max(self.pixel, edge))

    def specks(
        self, random: Random, centre: Point, spread: float, count: int, radius: float, colour: Floats
    ) -> None:
        """Paint `count` small discs of about `radius` around `centre`."""
        for _ in range(count):
            dx, dy = random.normal(0, spread, 2)
            speck = self.disc(centre[0] + dx, centre[1] + dy, radius * random.uniform(0.6, 1.3))
            self.paint(0.85 * speck, colour)


def stain(random: Random) -> Stain:
    """Draw a patient's stain, illumination and magnification."""
    warmth = random.normal(0, 1)
    cell = np.array([200 + 14 * warmth, 166 + 8 * random.normal(), 182 - 14 * warmth]) + random.normal(0, 9)
    parasite = np.array([112, 58, 128]) + random.normal(0, 12, 3)
    light = random.uniform(-0.1, 0.1, 2)
    return Stain(cell, parasite, random.uniform(0.02, 0.14), light, USUAL * float(random.lognormal(0, 0.13)))


def draw(random: Random, look: Stain, parasitized: bool) -> npt.NDArray[np.uint8]:
    """Draw one crop: uint8 (h, w, 3), RGB, black outside the cell."""
    canvas = _cell(random, look)
    if random.random() < (0.35 if parasitized else 0.6):
        _choose(random, ARTEFACTS)(canvas, random, look)
    if parasitized:
        _choose(random, PARASITES)(canvas, random, look)
    image = canvas.image + random.normal(0, 2.0, canvas.image.shape)
    image = np.clip(image * canvas.inside[:, :, None], 0, 255).astype(np.uint8)
    if random.random() < 0.25:
        blur = ImageFilter.GaussianBlur(float(random.uniform(0.8, 3.0)) * len(image) / USUAL)
        image = np.asarray(Image.fromarray(image).filter(blur)) * (canvas.inside[:, :, None] > 0.5)
    return image.astype(np.uint8)


def _cell(random: Random, look: Stain) -> Canvas:
    """An empty red cell: outline, central pallor, rim, uneven stain."""
    side = look.side * float(random.lognormal(0, 0.11))
    if random.random() < 0.03:
        side *= float(random.choice([0.45, 0.6, 1.6, 2.3]))
    height, width = map(int, np.clip(side * random.lognormal(0, 0.07, 2), SMALLEST, LARGEST))
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    angle = np.arctan2(y, x)
    outline = np.full_like(x, 0.93)
    for wave in (2, 3, 4, 5):
        outline += random.normal(0, 0.035 / wave) * np.cos(wave * angle + random.uniform(0, 2 * np.pi))
    depth = outline - np.hypot(x, y)
    inside = (depth > 0).astype(np.float64)
    uneven = Image.fromarray(random.normal(0, 1, (5, 5)).astype(np.float32))
    clouds = np.asarray(uneven.resize((width, height), Image.Resampling.BICUBIC))
    shade = 1 + look.pallor * np.exp(-((x**2 + y**2) / 0.22)) - 0.12 * np.exp(-depth.clip(0) / 0.06)
    shade = shade + 0.02 * clouds + look.light[0] * x + look.light[1] * y
    colour = look.cell * (1 + random.normal(0, 0.035))
    return Canvas(shade[:, :, None] * colour, x, y, inside, 2 / min(height, width))


def _ring(canvas: Canvas, random: Random, look: Stain) -> None:
    """A young trophozoite: a thin blue-violet ring with one or two chromatin dots, at times on the rim."""
    rim = random.random() < 0.25
    x, y = _place(random, 0.84 if rim else random.uniform(0.1, 0.6))
    radius = random.uniform(0.15, 0.24)
    width = random.uniform(0.035, 0.06)
    distance = np.hypot(canvas.x - x, (canvas.y - y) * random.uniform(0.8, 1.25))
    # Some rings take little stain and are hardly visible.
    opacity = random.uniform(0.2, 0.75)
    canvas.paint(opacity * _edge(width - np.abs(distance - radius), 1.5 * canvas.pixel), look.parasite + 22)
    angle = random.uniform(0, 2 * np.pi)
    for _ in range(1 + (random.random() < 0.3)):
        dot = canvas.disc(x + radius * np.cos(angle), y + radius * np.sin(angle), random.uniform(0.06, 0.09))
        canvas.paint((opacity + 0.15) * dot, look.parasite * CHROMATIN)
        angle += random.uniform(0.6, 2.0)


def _trophozoite(canvas: Canvas, random: Random, look: Stain) -> None:
    """A growing parasite: an irregular body with a vacuole, chromatin and brown pigment."""
    x, y = _place(random, random.uniform(0.0, 0.5))
    radius = random.uniform(0.22, 0.36)
    body = np.zeros_like(canvas.x)
    for _ in range(4):
        dx, dy = random.normal(0, 0.3 * radius, 2)
        body = np.maximum(body, canvas.disc(x + dx, y + dy, radius * random.uniform(0.5, 0.8), 0.04))
    body *= 1 - 0.7 * canvas.disc(x, y, radius * random.uniform(0.25, 0.4), 0.05)
    canvas.paint(0.6 * body, look.parasite + 12)
    dx, dy = random.normal(0, 0.5 * radius, 2)
    nucleus = canvas.disc(x + dx, y + dy, random.uniform(0.07, 0.11))
    canvas.paint(0.9 * nucleus, look.parasite * CHROMATIN)
    canvas.specks(random, (x, y), 0.6 * radius, 5, 0.02, np.array([92.0, 66.0, 42.0]))


def _schizont(canvas: Canvas, random: Random, look: Stain) -> None:
    """A rosette of merozoites around a clump of pigment."""
    x, y = _place(random, random.uniform(0.0, 0.3))
    count = int(random.integers(7, 15))
    for angle in np.linspace(0, 2 * np.pi, count, endpoint=False):
        radius = random.uniform(0.2, 0.38)
        dot = canvas.disc(x + radius * np.cos(angle), y + radius * np.sin(angle), random.uniform(0.06, 0.09))
        canvas.paint(0.8 * dot, look.parasite)
    canvas.paint(0.9 * canvas.disc(x, y, 0.07), PIGMENT)


def _gametocyte(canvas: Canvas, random: Random, look: Stain) -> None:
    """A crescent with pigment around its middle."""
    angle = random.uniform(0, 2 * np.pi)
    along = canvas.x * np.cos(angle) + canvas.y * np.sin(angle)
    across = canvas.y * np.cos(angle) - canvas.x * np.sin(angle) + random.uniform(0.3, 0.5) * along**2 - 0.1
    body = 1 - (along / random.uniform(0.55, 0.7)) ** 2 - (across / random.uniform(0.16, 0.22)) ** 2
    canvas.paint(0.65 * _edge(body, 0.15), look.parasite + 15)
    canvas.specks(random, (0.0, 0.05), 0.14, 8, 0.025, PIGMENT)


def _platelet(canvas: Canvas, random: Random, look: Stain) -> None:
    """A platelet lying on the cell: granular, without a ring, with a pale halo."""
    x, y = _place(random, random.uniform(0.2, 0.85))
    radius = random.uniform(0.16, 0.27)
    canvas.paint(0.45 * canvas.disc(x, y, radius * 1.45, 0.08), np.minimum(look.cell * 1.12, 250))
    canvas.paint(0.5 * canvas.disc(x, y, radius, 0.1), look.parasite + 38)
    canvas.specks(random, (x, y), 0.5 * radius, 12, 0.03, look.parasite + 5)


def _precipitate(canvas: Canvas, random: Random, look: Stain) -> None:
    """Stain precipitate: sharp dark grains in loose groups."""
    grain = look.parasite * 0.55
    for _ in range(int(random.integers(1, 4))):
        canvas.specks(random, _place(random, random.uniform(0.1, 0.85)), 0.12, 4, 0.045, grain)


def _howell_jolly(canvas: Canvas, random: Random, look: Stain) -> None:
    """A Howell-Jolly-like body: one smooth, round, dark dot without a ring."""
    x, y = _place(random, random.uniform(0.2, 0.75))
    canvas.paint(0.95 * canvas.disc(x, y, random.uniform(0.07, 0.12), 0.03), look.parasite * [0.8, 0.5, 0.8])


def _smudge(canvas: Canvas, random: Random, look: Stain) -> None:
    """A patch of thick stain without any structure."""
    x, y = _place(random, random.uniform(0.0, 0.6))
    opacity = random.uniform(0.2, 0.4)
    canvas.paint(opacity * canvas.disc(x, y, random.uniform(0.2, 0.4), 0.25), look.parasite + 25)


def _fold(canvas: Canvas, random: Random, look: Stain) -> None:
    """A crease or a drying mark: a thin, faint arc, like part of a ring without a dot."""
    x, y = _place(random, random.uniform(0.1, 0.8))
    distance = np.hypot(canvas.x - x, canvas.y - y)
    arc = _edge(0.045 - np.abs(distance - random.uniform(0.14, 0.3)), 1.5 * canvas.pixel)
    arc *= canvas.disc(x + random.normal(0, 0.15), y + random.normal(0, 0.15), 0.28, 0.1)
    canvas.paint(random.uniform(0.2, 0.6) * arc, look.parasite + random.uniform(20, 70))


Drawing = Callable[[Canvas, Random, Stain], None]
# The probability that each is drawn.
PARASITES: dict[Drawing, float] = {_ring: 0.55, _trophozoite: 0.25, _schizont: 0.1, _gametocyte: 0.1}
ARTEFACTS: dict[Drawing, float] = {
    _platelet: 0.3,
    _precipitate: 0.15,
    _howell_jolly: 0.2,
    _smudge: 0.1,
    _fold: 0.25,
}


def _choose(random: Random, options: dict[Drawing, float]) -> Drawing:
    return list(options)[int(random.choice(len(options), p=list(options.values())))]


def _place(random: Random, distance: float) -> Point:
    """A point at `distance` from the cell's centre."""
    angle = random.uniform(0, 2 * np.pi)
    return distance * float(np.cos(angle)), distance * float(np.sin(angle))


def _edge(distance: Floats, width: float) -> Floats:
    """Rises from 0 to 1 over `width`, with 0.5 at distance 0."""
    return np.clip(distance / width + 0.5, 0, 1)
