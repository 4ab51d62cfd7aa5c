"""`params.yaml` as frozen, typed values: the one schema that every stage reads it through.

The values' defaults are what stands in `params.yaml`; the schema has none. Each class below is a
section of that file, where each key is explained.
"""

import difflib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from malaria import paths
from malaria.errors import UserError

Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of `params.yaml`: no key more, no key less, no value of another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class SampleData(Section):
    patients: Annotated[int, Field(ge=4, le=1000)]
    cells: Annotated[int, Field(ge=20, le=100_000)]
    seed: Seed


class NlmData(Section):
    url: Annotated[str, Field(min_length=1)]
    size: Annotated[int, Field(ge=1)]
    sha256: Sha256
    parasitized_sha256: Sha256
    uninfected_sha256: Sha256


class KaggleData(Section):
    slug: Annotated[str, Field(pattern=r"^[^/\s]+/[^/\s]+$")]
    version: Annotated[int, Field(ge=1, le=10_000)]


class Data(Section):
    source: Literal["sample", "nlm", "kaggle", "folder"]
    folder: Annotated[str, Field(min_length=1)]
    classes: dict[str, Literal["Parasitized", "Uninfected"]]
    sample: SampleData
    nlm: NlmData
    kaggle: KaggleData


class Audit(Section):
    max_quarantined: Share
    min_side: Annotated[int, Field(ge=1, le=1000)]
    max_pixels: Annotated[int, Field(ge=1, le=100_000_000)]


class Split(Section):
    unit: Literal["patient", "image"]
    ratio: tuple[
        Annotated[float, Field(gt=0, lt=1)],
        Annotated[float, Field(gt=0, lt=1)],
        Annotated[float, Field(gt=0, lt=1)],
    ]
    seed: Seed
    tolerance: Share
    file: Annotated[str, Field(min_length=1)]
    folds: Annotated[int, Field(ge=0, le=1000)]
    fold: Annotated[int, Field(ge=0, le=999)]

    @model_validator(mode="after")
    def check_together(self) -> Self:
        if abs(sum(self.ratio) - 1) > 1e-6:
            raise ValueError(f"split.ratio adds up to {sum(self.ratio):g}, but must add up to 1")
        if self.folds in (1, 2):
            raise ValueError(f"split.folds is {self.folds}, but must be 0 (off) or at least 3")
        if self.folds and self.fold >= self.folds:
            raise ValueError(f"split.fold is {self.fold}, but must be under {self.folds} (split.folds)")
        return self


class Pack(Section):
    size: Annotated[int, Field(ge=32, le=128)]


class Train(Section):
    seed: Seed
    epochs: Annotated[int, Field(ge=1, le=1000)]
    patience: Annotated[int, Field(ge=1, le=1000)]
    keep: Literal["last", "best"]
    batch_size: Annotated[int, Field(ge=1, le=4096)]
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    weight_decay: Annotated[float, Field(ge=0, le=1)]
    averaging: Annotated[float, Field(ge=0, lt=1)]
    label_smoothing: Annotated[float, Field(ge=0, le=0.5)]
    class_weights: Literal["none", "balanced"]
    rotation: Annotated[float, Field(ge=0, le=180)]
    shear: Annotated[float, Field(ge=0, le=45)]
    zoom: Annotated[float, Field(ge=0, le=0.5)]
    flip: bool
    colour: Annotated[float, Field(ge=0, le=0.5)]
    brightness: Annotated[float, Field(ge=0, le=0.5)]
    noisy_labels: Literal["keep", "drop", "soften"]
    labels_file: Annotated[str, Field(min_length=1)]
    distribute: Literal["none", "mirrored"]
    threads: Annotated[int, Field(ge=1, le=1024)]
    deterministic: bool


class Evaluate(Section):
    specificities: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1)]
    resamples: Annotated[int, Field(ge=100, le=100_000)]
    seed: Seed
    bins: Annotated[int, Field(ge=2, le=100)]
    min_cells: Annotated[int, Field(ge=1, le=1000)]
    doubtful_labels: Annotated[str, Field(min_length=1)]


class Export(Section):
    precision: Literal["float32", "float16", "int8"]


class Gate(Section):
    min_cells: Annotated[int, Field(ge=1, le=1_000_000)]
    specificity: Annotated[float, Field(gt=0, lt=1)]
    auc_loss: Share
    sensitivity_loss: Share
    max_ece: Share
    max_bytes: Annotated[int, Field(ge=1, le=1_000_000_000)]
    rerun: tuple[Literal["fetch", "audit", "split", "pack", "train", "evaluate", "export"], ...]
    max_drift: Share
    override: Annotated[str, Field(min_length=1)]


class Params(Section):
    data: Data
    audit: Audit
    split: Split
    pack: Pack
    train: Train
    evaluate: Evaluate
    export: Export
    gate: Gate


def load_params(path: Path = paths.PARAMS) -> Params:
    """Read and check `params.yaml`.

    Raises:
        UserError: the file is missing or no YAML; a key is missing, unknown or mis-spelt, or its
            value is out of range. Only the first fault is named.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is not here: run this in the root of the repository.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{where}: this is not valid YAML; mend the line and run again.") from None
    try:
        # By way of JSON a list may become a tuple, while strict typing holds for the rest.
        return Params.model_validate_json(json.dumps(content, default=str))
    except ValidationError as error:
        raise UserError(f"{path}: {_sentence(error)}") from None


def _sentence(error: ValidationError) -> str:
    """The first fault of `error` in words: key, value and what is allowed."""
    fault = error.errors()[0]
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "value_error":
        return f"{fault['ctx']['error']}."
    if fault["type"] == "missing":
        return f"{key} is missing; it must be {_allowed(fault['loc'])}."
    if fault["type"] == "extra_forbidden":
        *above, name = fault["loc"]
        known = list(_schema_at(tuple(above)).get("properties", {}))
        near = difflib.get_close_matches(str(name), known, n=1)
        advice = (
            f"did you mean {'.'.join([*map(str, above), near[0]])}?"
            if near
            else f"known: {', '.join(known)}."
        )
        return f"{key} is no parameter; {advice}"
    return f"{key or 'the file'} is {json.dumps(fault['input'])}, but must be {_allowed(fault['loc'])}."


def _schema_at(location: tuple[int | str, ...]) -> dict[str, Any]:
    """The JSON schema of the value at `location`."""
    root = Params.model_json_schema()
    schema: dict[str, Any] = root
    for part in location:
        if isinstance(part, int):
            items = schema.get("prefixItems")
            schema = items[part] if items else schema.get("items", {})
        else:
            schema = schema.get("properties", {}).get(part) or schema.get("additionalProperties", {})
        if "$ref" in schema:
            schema = root["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    return schema


def _allowed(location: tuple[int | str, ...]) -> str:
    """What may stand at `location`, in words."""
    schema = _schema_at(location)
    if "enum" in schema:
        return " or ".join(schema["enum"])
    if "prefixItems" in schema:
        return f"a list of {len(schema['prefixItems'])} numbers"
    if "pattern" in schema:
        return {
            r"^[0-9a-f]{64}$": "64 hexadecimal digits",
            r"^[^/\s]+/[^/\s]+$": "a text like owner/name",
        }[schema["pattern"]]
    kind = schema.get("type", "object")
    if kind not in ("integer", "number"):
        return {
            "string": "a text that is not empty",
            "boolean": "true or false",
            "array": "a list that is not empty" if "minItems" in schema else "a list",
            "object": "a section with keys",
        }[kind]
    bounds = [
        f"{word} {schema[name]:g}" if kind == "number" else f"{word} {schema[name]}"
        for name, word in (
            ("minimum", "from"),
            ("exclusiveMinimum", "above"),
            ("maximum", "to"),
            ("exclusiveMaximum", "below"),
        )
        if name in schema
    ]
    return " ".join(["an integer" if kind == "integer" else "a number", *bounds])
