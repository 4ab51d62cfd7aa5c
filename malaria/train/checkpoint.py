"""Keep the state of a training after each epoch in a file, so that a killed run can resume from there.

The file holds named arrays and nothing that could run (NumPy's .npz without pickles). It has the key of the
training that wrote it: another training ignores and overwrites it.
"""

import importlib.metadata
import platform
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt

from malaria import files
from malaria.train import processor

_LIBRARIES = ("keras", "numpy", "scikit-learn", "tensorflow")


@dataclass(frozen=True)
class Checkpoint:
    """The saved state of one training at `path`; `key` tells it from that of every other training."""

    path: Path
    key: str

    def save(self, **lists: Sequence[npt.ArrayLike]) -> None:
        """Replace the saved state by `lists` of arrays, completely or not at all."""
        arrays = {
            f"{name}/{position}": np.asarray(array)
            for name, values in lists.items()
            for position, array in enumerate(values)
        }
        with files.atomic_path(self.path) as part:
            np.savez(part, allow_pickle=False, key=np.array(self.key), **arrays)

    def load(self) -> dict[str, list[npt.NDArray[Any]]]:
        """The lists that this training saved last.

        Empty if nothing was saved, if another training saved it, or if the file is damaged (each array has a
        checksum): the training then starts from the beginning.
        """
        lists = defaultdict(list)
        try:
            with np.load(self.path, allow_pickle=False) as saved:
                if str(saved["key"]) != self.key:
                    return {}
                for name in saved.files:
                    lists[name.partition("/")[0]].append(saved[name])
        except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            return {}
        return lists


def key(*ingredients: Any) -> str:
    """A hash of everything that shapes a training.

    That is `ingredients` (settings, arrays and lists of these), the package's code, the versions of the
    libraries, and the machine and its processor.
    """
    package = Path(__file__).parents[1]
    # The whole package: a checkpoint is needed for minutes only, and need not survive a change of code.
    code = {str(file.relative_to(package)): files.sha256(file) for file in sorted(package.rglob("*.py"))}
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    host = [platform.python_version(), platform.node(), processor.kind()]
    return str(joblib.hash([code, versions, host, ingredients], hash_name="sha1", coerce_mmap=True))
