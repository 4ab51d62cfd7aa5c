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

# Separate streams of random numbers for patients, cells and counts, so that more cells change no patient's
# stain.
_PATIENTS, _CELLS, _COUNTS = 1, 2, 3


@dataclass(frozen=True)
class Patient:
    """A patient, and how many cells of each class to draw."""

    number: int
    infected: bool
    parasitized: int
    uninfected: int


def fetch(data: params.Data, folder: Path, _cache: Path | None = None) -> Provenance:
    """Draw the sample that `data.sample` asks for: the same seed draws the same bytes."""
    for label in LABELS:
        (folder / label).mkdir()
    patients = plan(data.sample)
    draw = functools.partial(_draw, folder, data.sample.seed)
    digests = processes.map_in_order(draw, patients, "drawing", batch=1, unit="patients")
    checksum = hashlib.sha256(b"".join(digests)).hexdigest()
    origin = f"synthetic sample, seed {data.sample.seed}"
    return Provenance("sample", origin, __version__, checksum, LICENCE, data.sample.cells)


def plan(sample: params.SampleData) -> list[Patient]:
    """Distribute the cells over patients as in the NIH set.

    A quarter of the patients are controls. Half of the cells are parasitised, and a few patients have many of
    these. Every infected patient has cells of both classes, if there are enough cells.
    """
    random = _random(sample.seed, _COUNTS, 0)
    infected = sample.patients - max(1, sample.patients // 4)
    parasitized = _shares(sample.cells // 2, random.lognormal(0, 0.9, infected))
    uninfected = _shares(sample.cells - sample.cells // 2, random.uniform(0.7, 1.3, sample.patients))
    return [
        Patient(number, number < infected, *map(int, cells))
        for number, cells in enumerate(itertools.zip_longest(parasitized, uninfected, fillvalue=0))
    ]


def _draw(folder: Path, seed: int, patient: Patient) -> bytes:
    """Write a patient's cells; returns the SHA-256 of their pixels, in order."""
    stain = synthetic.stain(_random(seed, _PATIENTS, patient.number))
    number = patient.number + 1
    slide = f"C{100 + number}P{number}ThinF" if patient.infected else f"C{number}NThinF"
    digest = hashlib.sha256()
    for index in range(patient.parasitized + patient.uninfected):
        label = PARASITIZED if index < patient.parasitized else UNINFECTED
        random = _random(seed, _CELLS, patient.number * 1_000_000 + index)
        pixels = synthetic.draw(random, stain, label == PARASITIZED)
        digest.update(pixels.tobytes())
        # One microscope field holds some forty cells.
        name = f"{slide}_IMG_20150918_{140000 + index // 40:06}_cell_{index + 1}.png"
        Image.fromarray(pixels).save(folder / label / name, compress_level=3)
    return digest.digest()


def _shares(total: int, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Share `total` into whole numbers in proportion to `weights`, each at least 1 if there is enough."""
    minimum = 1 if total >= len(weights) else 0
    remainder = total - minimum * len(weights)
    exact = remainder * weights / weights.sum()
    counts: npt.NDArray[np.int64] = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: remainder - counts.sum()]] += 1
    return counts + minimum


def _random(seed: int, stream: int, number: int) -> synthetic.Random:
    """The generator of one patient or cell: neither order nor processes change what it draws."""
    return np.random.Generator(np.random.Philox(key=[seed, stream << 56 | number]))
