"""Where a training stands after each epoch, kept in a file so that a killed run goes on from there.

The file holds named arrays and nothing that could run (NumPy's .npz without pickles). It bears the key of
the training that wrote it: another training does not take it, and overwrites it.
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
from malaria.train.backend import processor

_LIBRARIES = ("keras", "numpy", "scikit-learn", "tensorflow")


@dataclass(frozen=True)
class Checkpoint:
    """What one training keeps of itself at `path`; `key` tells it from every other training."""

    path: Path
    key: str

    def save(self, **lists: Sequence[npt.ArrayLike]) -> None:
        """Replace what was kept by `lists` of arrays, whole or not at all."""
        arrays = {
            f"{name}/{place}": np.asarray(array)
            for name, listed in lists.items()
            for place, array in enumerate(listed)
        }
        with files.atomic_path(self.path) as part:
            np.savez(part, allow_pickle=False, key=np.array(self.key), **arrays)

    def load(self) -> dict[str, list[npt.NDArray[Any]]]:
        """The lists that this training saved last.

        Empty where nothing was kept, where it is another training's, or where it is damaged (each array in
        the file has a checksum): training then begins at the beginning.
        """
        lists = defaultdict(list)
        try:
            with np.load(self.path, allow_pickle=False) as kept:
                if str(kept["key"]) != self.key:
                    return {}
                for name in kept.files:
                    lists[name.partition("/")[0]].append(kept[name])
        except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            return {}
        return lists


def key(*made_of: Any) -> str:
    """A hash of all that shapes a training: what it is `made_of`, settings, arrays and lists of these; the
    library's code, the versions and the processor that it runs on.
    """
    package = Path(__file__).parents[1]
    # All of the package: a checkpoint lives for minutes, and need not survive a change of code.
    code = {str(file.relative_to(package)): files.sha256(file) for file in sorted(package.rglob("*.py"))}
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    runs_on = [platform.python_version(), platform.node(), processor()]
    return str(joblib.hash([code, versions, runs_on, made_of], hash_name="sha1", coerce_mmap=True))
