"""The model bundle: a folder with everything an app needs to judge cells, without TensorFlow.

`malaria.bundle.load(folder).predict(images)` judges cells; `malaria.bundle.build` makes a bundle.

network.tflite   the network: float32 (n, size, size, 3) in [0, 255] to P(parasitised), features and map
bundle.json      how to prepare the input and read the output, and what the bundle was made of (`Record`)
MODEL_CARD.md    its purpose, its figures, and what it must not be used for
figures.json     every figure on val and test with its interval, and the curves of the plots
trained_on.npy   fingerprints of the cells it was made with (`malaria.bundle.fingerprints`)
gate.npz         the out-of-distribution check: is this a stained red cell? (`malaria.bundle.ood`)
SHA256SUMS       the manifest: the SHA-256 of each file above, in the format of `sha256sum -c`

A bundle has no date or version of its own (both belong to the commit that carries it), so a rerun changes
nothing in it.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from malaria import command, files, labels, params, paths, running
from malaria.bundle import fingerprints, ood
from malaria.cells import images, prepare
from malaria.cells.prepared import Prepared
from malaria.errors import UserError
from malaria.evaluate import calibration

NETWORK, RECORD, CARD, MANIFEST = "network.tflite", "bundle.json", "MODEL_CARD.md", "SHA256SUMS"

# Files beside the network, by the name of their hash in the record. Existing bundles use these names.
PARTS = {"figures": "figures.json", "trained_on": "trained_on.npy", "gate": "gate.npz"}


class OperatingPoint(BaseModel):
    """A threshold on the calibrated probability, and the specificity on val that it was fixed for.

    A cell counts as parasitised when its probability is at least the threshold.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    specificity: float
    threshold: float


class Record(BaseModel):
    """The content of `bundle.json`.

    `schema_version`: 2 added the out-of-distribution check, which readers of version 1 do not know; 3 added
    the network's map and `colour`, an argument of `prepare.prepare`. `hashes`: SHA-256 of the network's file,
    of the packed index (which has every cell's hash), of the split, of the code that shaped the network, and
    of the files in `PARTS`. `data_source`: data.source of params.yaml.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1, 2, 3]
    name: str
    research_use_only: Literal[True]
    synthetic: bool
    data_source: str
    input_size: int
    min_side: int
    max_pixels: int
    resize: str
    colour: params.Colour = prepare.AS_IS
    labels: tuple[str, ...]
    positive: str
    precision: str
    temperature: float
    operating_points: tuple[OperatingPoint, ...]
    hashes: dict[str, str]
    libraries: dict[str, str]


@dataclass(frozen=True)
class Predictions:
    """What a bundle predicts for n cells.

    `p_parasitized`, `p_network`: P(parasitised) after and before calibration, float64 (n,). `features`:
    float32 (n, d). `rejected`: for each cell the reason for which the out-of-distribution check rejects it,
    as people read it, or None; the probability of a rejected cell has no meaning. `look`: the check's
    quantities, float32 (n, q). `maps`: as in `Bundle.explain`, float32 (n, h, w).
    """

    p_parasitized: npt.NDArray[np.float64]
    p_network: npt.NDArray[np.float64]
    features: npt.NDArray[np.float32]
    rejected: tuple[str | None, ...]
    look: npt.NDArray[np.float32]
    maps: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle. Do not use one bundle in several threads at once.

    `network`: LiteRT's interpreter. `tensors`: its indices of the cell, float32 (1, size, size, 3), of
    P(parasitised), of the features and, if the network has one, of the map. `fitted_ood`: None if the bundle
    was written without an out-of-distribution check; it then accepts every picture. `made_with`: the
    fingerprints of the cells that it was made with, or None. `manifest`: as `check_manifest` returns it.
    """

    record: Record
    network: Any
    tensors: tuple[int, ...]
    folder: Path = Path()
    fitted_ood: ood.Check | None = None
    made_with: fingerprints.Fingerprints | None = None
    manifest: str = ""

    @property
    def limits(self) -> images.Limits:
        """The limits within which `images.read` accepts a cell crop."""
        return images.Limits(self.record.min_side, self.record.max_pixels)

    def predict(self, cells: Sequence[images.Pixels] | images.Pixels) -> npt.NDArray[np.float64]:
        """Calibrated P(parasitised), float64 (n,), of n crops of any size, each uint8 (h, w, 3).

        nan if the out-of-distribution check rejects the picture; `run` gives the reason.
        """
        predictions = self.run(cells)
        accepted = [reason is None for reason in predictions.rejected]
        return np.where(accepted, predictions.p_parasitized, np.nan)

    def explain(self, cell: images.Pixels) -> npt.NDArray[np.float32] | None:
        """How much each place of a crop, uint8 (h, w, 3), adds to the logit of P before calibration.

        Returns:
            float32 of the last feature map's size, whose sum is that logit without its bias; None if the
            bundle was written without a map.
        """
        maps = self.run([cell]).maps
        return None if maps is None else maps[0]

    def visible_part(self, cell: images.Pixels) -> images.Pixels:
        """The part of a crop, uint8 (h, w, 3), that the network sees and that its map covers."""
        return cell if self.record.colour == prepare.AS_IS else prepare.without_margin(cell)

    def prepare(self, cell: images.Pixels) -> Prepared:
        """Prepare a crop of any size, uint8 (h, w, 3), as the network's input.

        Raises:
            ValueError: the crop is not such an array, nor a picture or whole numbers that convert to one
                unchanged.
        """
        return prepare.prepare(_pixels(cell), self.record.input_size, self.record.colour)

    def run(self, cells: Sequence[images.Pixels] | images.Pixels) -> Predictions:
        """Probabilities, features, rejections and maps of crops of any size: each uint8 (h, w, 3)."""
        return self.run_prepared([self.prepare(cell) for cell in cells])

    def run_prepared(self, cells: Sequence[Prepared]) -> Predictions:
        """As `run`, for cells from `prepare`, or from the pack stage with the bundle's parameters."""
        input_index, *output_indices = self.tensors
        shapes = (self.network.get_tensor(index).shape[1:] for index in output_indices)
        results = [np.zeros((len(cells), *shape), np.float32) for shape in shapes]
        # One cell at a time: on a CPU larger batches are no faster and take megabytes a cell, and every
        # change of the batch size takes milliseconds.
        for row, cell in enumerate(cells):
            self.network.set_tensor(input_index, cell.pixels[None].astype(np.float32))
            self.network.invoke()
            for values, index in zip(results, output_indices, strict=True):
                values[row] = self.network.get_tensor(index)[0]
        probability, features, *maps = results
        p = probability[:, 0].astype(np.float64)
        rejected: tuple[str | None, ...] = (None,) * len(cells)
        look = np.zeros((len(cells), len(ood.REASONS)), np.float32)
        if self.fitted_ood is not None:
            pictures = ood.Seen(cells, features)
            look, rejected = pictures.look, ood.reasons(self.fitted_ood, pictures)
        return Predictions(calibration.apply(p, self.record.temperature), p, features, rejected, look, *maps)

    def known(self, cells: Iterable[images.Pixels]) -> npt.NDArray[np.bool_] | None:
        """Whether the model was made with each of these cells or a copy of it, bool (n,).

        None if the bundle cannot tell.

        Args:
            cells: prepared, each uint8 (size, size, 3).
        """
        return None if self.made_with is None else fingerprints.known(self.made_with, cells)

    def foreign(self, looks: ood.Looks) -> bool | None:
        """Whether a batch of cells has a stain unlike that of every patient that the model learned from.

        None if that is not known: for fewer than 50 cells, for a bundle of an earlier version, or for one
        that learned from too few patients.
        """
        return None if self.fitted_ood is None else ood.foreign(self.fitted_ood, looks)


def _pixels(cell: npt.ArrayLike) -> images.Pixels:
    """A crop as uint8 (h, w, 3), converted from a PIL image or another numeric dtype if need be.

    Raises:
        ValueError: the shape is wrong, or the conversion would change a value.
    """
    array = np.asarray(cell)
    if array.ndim == 3 and array.shape[2] == 3 and min(array.shape) >= 3 and array.dtype.kind in "uif":
        # NaN and infinity become an arbitrary number, so the comparison below finds a difference.
        with np.errstate(invalid="ignore"):
            pixels = array.astype(np.uint8, copy=False)
        if pixels is array or np.array_equal(pixels, array):
            return pixels
    raise ValueError(
        f"A cell is {array.dtype} {array.shape}, but must be an RGB array (height, width, 3) from 3 px on, "
        "of whole numbers from 0 to 255, as np.asarray(image.convert('RGB')) gives, and cells a list of such."
    )


def load(folder: Path | str | None = None, threads: int | None = None) -> Bundle:
    """Open a bundle.

    Args:
        folder: None for that of `default_folder`.
        threads: of the network; None for one per core.

    Raises:
        UserError: the bundle is missing, incomplete, of an unknown schema, or was tampered with.
    """
    folder = default_folder() if folder is None else Path(folder)
    record = read_record(folder)
    manifest = check_manifest(folder)
    network = _read(folder / NETWORK, record.hashes.get("network"), f"the network that {RECORD} describes")
    ood_content, trained_on = read_part(folder, record, "gate"), read_part(folder, record, "trained_on")
    bundle = open_network(record, network, threads)
    if (size := int(bundle.network.get_input_details()[0]["shape"][1])) != record.input_size:
        raise UserError(
            f"{folder / RECORD} describes cells of {record.input_size} px, but the network takes {size}: "
            "fetch or export the bundle again."
        )
    return replace(
        bundle,
        folder=folder,
        fitted_ood=None if ood_content is None else ood.from_bytes(ood_content),
        made_with=None if trained_on is None else fingerprints.from_bytes(trained_on),
        manifest=manifest,
    )


def open_network(record: Record, network: bytes, threads: int | None = None) -> Bundle:
    """A bundle of the network alone, as `build.export` needs it; `load` adds the rest."""
    from ai_edge_litert.interpreter import Interpreter

    # The runtime logs which of its parts it uses.
    with command.without_native_logs():
        interpreter = Interpreter(model_content=network, num_threads=threads or running.cores())
        interpreter.allocate_tensors()
        # The signature finds the tensors by their exported names; calls through it take a tenth longer.
        signature = interpreter.get_signature_runner()
    input_index = signature.get_input_details()["cell"]["index"]
    output_indices = (tensor["index"] for _, tensor in sorted(signature.get_output_details().items()))
    return Bundle(record, interpreter, (input_index, *output_indices))


def read_record(folder: Path) -> Record:
    """Read and check a bundle's `bundle.json`; UserError if it cannot be used."""
    path = folder / RECORD
    try:
        record = Record.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder} is no model bundle, as it holds no {RECORD}: run `dvc repro`, or name another folder."
        ) from None
    except ValidationError as error:
        location = ".".join(str(part) for part in error.errors()[0]["loc"]) or "the file"
        raise UserError(
            f"{path} is of an unknown schema or damaged (at {location}): "
            "use the version of this project that wrote it."
        ) from None
    expected = (labels.LABELS, labels.PARASITIZED, images.RESIZE)
    if (record.labels, record.positive, record.resize) != expected:
        raise UserError(f"{path} names other labels or another resize than this version knows: update it.")
    return record


def write_manifest(folder: Path) -> None:
    """Write the manifest of a bundle: the hashes of all files that are in `folder` now."""
    lines = [f"{files.sha256(file)}  {file.name}\n" for file in sorted(folder.iterdir())]
    files.write_text(folder / MANIFEST, "".join(lines))


def check_manifest(folder: Path) -> str:
    """Check a bundle's files against its manifest, and return the manifest's SHA-256.

    That hash identifies the whole bundle; it is empty if the bundle was written without a manifest.

    Raises:
        UserError: a listed file is missing or has changed, or the manifest is damaged or does not list
            network, record and card.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return ""
    content = path.read_bytes()
    lines = [line.partition("  ") for line in content.decode(errors="replace").splitlines()]
    listed = {name: digest for digest, _, name in lines if Path(name).name == name}
    if len(listed) < len(lines) or not {NETWORK, RECORD, CARD} <= listed.keys():
        raise UserError(f"{path} is damaged: fetch or export the bundle again.")
    for name, digest in listed.items():
        _read(folder / name, digest, f"the file that {MANIFEST} lists")
    return hashlib.sha256(content).hexdigest()


def read_part(folder: Path, record: Record, name: str) -> bytes | None:
    """The content of one of `PARTS`; None if the bundle was written without it.

    Raises:
        UserError: the record names the file, but it is missing or has changed.
    """
    if name not in record.hashes:
        return None
    return _read(folder / PARTS[name], record.hashes[name], f"the file that {RECORD} describes")


def _read(file: Path, sha256: str | None, description: str) -> bytes:
    """The content of a bundle's file, if its hash is `sha256`; errors call the file `description`.

    Raises:
        UserError: the file is missing or has another hash.
    """
    if not file.is_file():
        raise UserError(
            f"{file.parent} is incomplete, without {file.name}: fetch or export the bundle again."
        )
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{file} is not {description} (its hash differs): fetch the bundle again.")
    return content


def check_replaceable(folder: Path) -> None:
    """Raise UserError if `folder` holds files that are not a bundle's: writing one there removes them."""
    if not folder.is_dir() or (folder / RECORD).is_file():
        return
    if others := {file.name for file in folder.iterdir()} - {paths.LABEL_AUDIT.name}:
        raise UserError(
            f"{folder} is no model bundle, and would lose {min(others)}: name a new folder with --out."
        )


def default_folder() -> Path:
    """The pretrained bundle, else the one of `dvc repro`: here, else beside or inside the package.

    Raises:
        UserError: there is neither.
    """
    for root in paths.ROOTS:
        for folder in (root / paths.PRETRAINED, root / paths.BUNDLE):
            if (folder / RECORD).is_file():
                return folder
    raise UserError(
        f"There is no model bundle at {paths.BUNDLE}: run `make repro`, or name one with --model."
    )
