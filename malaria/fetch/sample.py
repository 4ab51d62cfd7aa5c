"""The synthetic sample: cells drawn by `malaria.cells.synthetic`, named as the NIH set names its files."""

import functools
import hashlib
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from malaria import __version__, params, processes
from malaria.cells import synthetic
from malaria.cells.provenance import Provenance
from malaria.labels import LABELS, PARASITIZED, UNINFECTED

LICENCE = "MIT, as the project; synthetic sample, drawn by malaria/cells/synthetic.py"

# Separate streams of random numbers for patients and cells, so that more cells change no patient's stain.
_OF_PATIENTS, _OF_CELLS, _OF_COUNTS = 1, 2, 3


@dataclass(frozen=True)
class Order:
    """One patient's cells to draw."""

    patient: int
    infected: bool
    parasitized: int
    uninfected: int


def fetch(data: params.Data, folder: Path, _cache: Path | None = None) -> Provenance:
    """Draw the sample that `data.sample` asks for: the same seed draws the same bytes."""
    for label in LABELS:
        (folder / label).mkdir()
    orders = plan(data.sample)
    digest = hashlib.sha256()
    work = functools.partial(_draw, folder, data.sample.seed)
    for checksum in processes.in_order(work, orders, "drawing", batch=1, unit="patients"):
        digest.update(checksum)
    origin = f"synthetic sample, seed {data.sample.seed}"
    return Provenance("sample", origin, __version__, digest.hexdigest(), LICENCE, data.sample.cells)


def plan(sample: params.SampleData) -> list[Order]:
    """Share the cells among patients as in the NIH set.

    A quarter of the patients are controls, half of the cells are parasitised, and a few patients have many of
    these. Every infected patient has cells of both classes, if there are enough cells.
    """
    random = _random(sample.seed, _OF_COUNTS, 0)
    infected = sample.patients - max(1, sample.patients // 4)
    parasitized = _shares(sample.cells // 2, random.lognormal(0, 0.9, infected))
    uninfected = _shares(sample.cells - sample.cells // 2, random.uniform(0.7, 1.3, sample.patients))
    return [
        Order(patient, patient < infected, *map(int, cells))
        for patient, cells in enumerate(itertools.zip_longest(parasitized, uninfected, fillvalue=0))
    ]


def _draw(folder: Path, seed: int, order: Order) -> bytes:
    """Write a patient's cells; returns the SHA-256 of their pixels, in order."""
    look = synthetic.stain(_random(seed, _OF_PATIENTS, order.patient))
    number = order.patient + 1
    slide = f"C{100 + number}P{number}ThinF" if order.infected else f"C{number}NThinF"
    digest = hashlib.sha256()
    for index in range(order.parasitized + order.uninfected):
        label = PARASITIZED if index < order.parasitized else UNINFECTED
        random = _random(seed, _OF_CELLS, order.patient * 1_000_000 + index)
        pixels = synthetic.draw(random, look, label == PARASITIZED)
        digest.update(pixels.tobytes())
        # One microscope field holds some forty cells.
        name = f"{slide}_IMG_20150918_{140000 + index // 40:06}_cell_{index + 1}.png"
        Image.fromarray(pixels).save(folder / label / name, compress_level=3)
    return digest.digest()


def _shares(total: int, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Share `total` into whole numbers in proportion to `weights`, each at least 1 if there is enough."""
    least = 1 if total >= len(weights) else 0
    rest = total - least * len(weights)
    exact = rest * weights / weights.sum()
    counts: npt.NDArray[np.int64] = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: rest - counts.sum()]] += 1
    counts += least
    return counts


def _random(seed: int, purpose: int, number: int) -> synthetic.Random:
    """A generator of its own for each patient and cell, so that neither order nor processes matter."""
    return np.random.Generator(np.random.Philox(key=[seed, purpose << 56 | number]))
