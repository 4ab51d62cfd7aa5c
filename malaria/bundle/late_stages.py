"""Late stages of malaria parasites, drawn on cells: bodies that fill a quarter of a cell or all of it.

The NIH/NLM set is of *P. falciparum* in peripheral blood: nearly all of its parasites are rings.
Trophozoites, schizonts and gametocytes, of *P. vivax* above all, fill their cells. A check that has seen
none turns them away, and they vanish from every count. These drawings teach it that such a cell is a cell.
No network learns from them (docs/model.md says why).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from malaria.cells import prepare
from malaria.cells.prepared import Prepared
from malaria.params import Colour

Random = np.random.Generator
Floats = npt.NDArray[np.float64]

# What cytoplasm, chromatin and pigment take of red, green and blue light: blue, violet and brown.
_CYTOPLASM, _CHROMATIN, _PIGMENT = np.array([[1.0, 0.8, 0.5], [0.8, 1.0, 0.45], [0.5, 0.8, 1.0]])


@dataclass(frozen=True)
class _Stage:
    """A stage's look: `body` and `mass`, radii of the parasite and of each of its `masses` of chromatin, as
    shares of the cell's; `dents`, how uneven its outline is.
    """

    body: tuple[float, float]
    dents: float
    masses: tuple[int, int]
    mass: tuple[float, float]


_STAGES = (
    _Stage(body=(0.35, 0.7), dents=0.35, masses=(1, 2), mass=(0.08, 0.2)),  # trophozoite
    _Stage(body=(0.55, 1.0), dents=0.08, masses=(6, 22), mass=(0.06, 0.13)),  # schizont
    _Stage(body=(0.55, 1.0), dents=0.08, masses=(1, 1), mass=(0.15, 0.35)),  # gametocyte
)


def drawn(cells: Sequence[Prepared], colour: Colour, seed: int) -> list[Prepared]:
    """Each cell with a late stage of some kind in it, prepared again as `colour` has it."""
    random = np.random.default_rng(seed)
    return [prepare.again(cell, _infected(random, cell.pixels), colour) for cell in cells]


def _infected(random: Random, cell: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """`cell`, uint8 (size, size, 3), through a parasite that takes light as stain does (Beer and Lambert)."""
    stage = _STAGES[int(random.integers(len(_STAGES)))]
    places = np.linspace(-1, 1, len(cell))
    y, x = np.meshgrid(places, places, indexing="ij")
    radius, soft = random.uniform(*stage.body), random.uniform(0.05, 0.15)
    middle = _turned(random, random.uniform(0, max(0.05, 0.85 - radius)))

    def blob(near: float, radius: float, dents: float) -> Floats:
        """From 0 to 1 inside an uneven outline, `near` of the body's radius from its middle at most."""
        up, right = np.add(middle, _turned(random, near * np.sqrt(random.uniform())))
        angle = np.arctan2(y - up, x - right)
        waves = [1 + random.normal(0, dents / k) * np.cos(k * angle + _angle(random)) for k in range(2, 6)]
        depth = radius * np.prod(waves, axis=0) - np.hypot(y - up, x - right)
        inside: Floats = np.clip(depth / soft + 0.5, 0, 1)
        return inside

    body = blob(0.0, radius, stage.dents)
    masses, grains = random.integers((stage.masses[0], 1), (stage.masses[1] + 1, 12))
    chromatin = np.max([blob(0.85 * radius, random.uniform(*stage.mass), 0.15) for _ in range(masses)], 0)
    pigment = np.max([blob(radius, random.uniform(0.015, 0.05), 0.0) for _ in range(grains)], 0)
    density = (
        random.uniform(0.12, 0.8) * body[..., None] * _CYTOPLASM * random.uniform(0.8, 1.2, 3)
        + random.uniform(0.3, 1.2) * chromatin[..., None] * _CHROMATIN
        + random.uniform(0.2, 0.8) * pigment[..., None] * _PIGMENT
    )
    seen: npt.NDArray[np.uint8] = np.rint(cell * np.exp(-density)).astype(np.uint8)
    return seen


def _angle(random: Random) -> float:
    return float(random.uniform(0, 2 * np.pi))


def _turned(random: Random, far: float) -> tuple[float, float]:
    """A point at distance `far`, in any direction."""
    angle = _angle(random)
    return far * np.sin(angle), far * np.cos(angle)
