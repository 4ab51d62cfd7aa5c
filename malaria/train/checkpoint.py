"""Where a training stands after each epoch, kept in a file so that a killed run goes on from there.

The file holds named arrays and nothing that could run (NumPy's .npz without pickles). It bears the key
of the training that wrote it, and is of no use to any other. Whoever asked for it removes it at the end.
"""

import hashlib
import importlib.metadata
import os
import platform
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from malaria import files

Arrays = Mapping[str, npt.ArrayLike | Sequence[npt.ArrayLike]]

_KEY = "key"
_LIBRARIES = ("keras", "numpy", "scikit-learn", "tensorflow")


@dataclass(frozen=True)
class Checkpoint:
    """What one training keeps of itself at `path`; `key` tells it from every other training."""

    path: Path
    key: str

    def save(self, carried: Arrays) -> None:
        """Replace what was kept by `carried`, whole or not at all.

        Args:
            carried: all that the next epoch needs, by name: an array, a number, or a list of arrays.
        """
        flat = {_KEY: np.array(self.key)}
        for name, value in carried.items():
            if isinstance(value, (list, tuple)):
                flat |= {f"{name}/{place}": np.asarray(part) for place, part in enumerate(value)}
                flat[f"{name}/"] = np.array(len(value))
            else:
                flat[name] = np.asarray(value)
        with files.atomic_path(self.path) as part:
            np.savez(part, allow_pickle=False, **flat)

    def load(self) -> dict[str, Any]:
        """What the last finished epoch of this training carried, lists as lists of arrays.

        Empty where nothing was kept, where it is another training's, or where it is damaged (each
        array in the file has a checksum): training then begins at the beginning.
        """
        try:
            with np.load(self.path, allow_pickle=False) as kept:
                if str(kept[_KEY]) != self.key:
                    return {}
                flat = {name: kept[name] for name in kept.files if name != _KEY}
        except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            return {}
        return _nested(flat)


def _nested(flat: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
    """`flat` with the parts of each list, `name/0`, `name/1`, ..., as a list again."""
    lengths = {name[:-1]: int(length) for name, length in flat.items() if name.endswith("/")}
    lists = {name: [flat[f"{name}/{place}"] for place in range(lengths[name])] for name in lengths}
    return {name: value for name, value in flat.items() if "/" not in name} | lists


def values(variables: Iterable[Any]) -> list[npt.NDArray[Any]]:
    """What variables of Keras hold: a network's `variables` (random states too), an optimizer's."""
    return [np.asarray(variable.numpy()) for variable in variables]


def assign(variables: Sequence[Any], values: Sequence[npt.NDArray[Any]]) -> None:
    """Give variables what `values` took from them."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def key(*shapes: str | bytes | npt.NDArray[Any] | None) -> str:
    """A hash of all that shapes a training: `shapes`, the library's code, the versions it runs on.

    Args:
        shapes: settings as text, cells and labels as arrays. Any other value of one of them is
            another training.
    """
    digest = hashlib.sha256()
    for shape in (*shapes, *_code(), *_platform()):
        # Lengths and kinds keep ("ab", "c") and ("a", "bc") apart.
        if isinstance(shape, np.ndarray):
            digest.update(f"array {shape.dtype} {shape.shape}:".encode())
            digest.update(np.ascontiguousarray(shape).reshape(-1).view(np.uint8).data)
        else:
            content = shape.encode() if isinstance(shape, str) else shape or b""
            digest.update(f"{type(shape).__name__} {len(content)}:".encode())
            digest.update(content)
    return digest.hexdigest()


def _code() -> Iterable[bytes]:
    """All of this package: a checkpoint lives for minutes, and need not survive a change of code."""
    package = Path(__file__).parents[1]
    for module in sorted(package.rglob("*.py")):
        yield str(module.relative_to(package)).encode()
        yield module.read_bytes()


def _platform() -> Iterable[str]:
    """What the last bits of a sum can hang on: library versions, processor, how many cores share it."""
    yield from (f"{name} {importlib.metadata.version(name)}" for name in _LIBRARIES)
    yield f"{platform.python_version()} {platform.machine()} {platform.node()}"
    yield str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
