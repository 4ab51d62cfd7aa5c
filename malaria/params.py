"""The schema of `params.yaml`: every stage reads the file as frozen, typed values.

The schema has no defaults: every value is in `params.yaml`. Each class below is a section of that file,
where each key is explained.
"""

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from malaria import paths
from malaria.errors import UserError

# A description says in error messages which values are allowed, if bounds do not.
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="64 hexadecimal digits")]
Share = Annotated[float, Field(ge=0, le=1)]
Part = Annotated[float, Field(gt=0, lt=1)]
# In the order of dvc.yaml.
Stage = Literal["fetch", "audit", "split", "pack", "laboratories", "train", "evaluate", "export", "external"]
# How cells are prepared: as they are, or adjusted by their own colour.
Colour = Literal["as-is", "own"]
Text = Annotated[str, Field(min_length=1, description="a text that is not empty")]


class Section(BaseModel):
    """A section of `params.yaml`: unknown keys, missing keys and values of another type are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class SampleData(Section):
    patients: Annotated[int, Field(ge=4, le=1000)]
    cells: Annotated[int, Field(ge=20, le=100_000)]
    seed: Seed


class NlmData(Section):
    url: Text
    size: Annotated[int, Field(ge=1)]
    sha256: Sha256
    parasitized_sha256: Sha256
    uninfected_sha256: Sha256


class KaggleData(Section):
    slug: Annotated[str, Field(pattern=r"^[^/\s]+/[^/\s]+$", description="a text like owner/name")]
    version: Annotated[int, Field(ge=1, le=10_000)]


class FieldsData(Section):
    complete: bool
    patient: Annotated[re.Pattern[str], Field(description="a regular expression, or empty")]


class Data(Section):
    source: Literal["sample", "nlm", "kaggle", "folder", "fields"]
    folder: Text
    classes: dict[str, Literal["Parasitized", "Uninfected", "Unlabelled", "Other"]]
    fields: FieldsData
    sample: SampleData
    nlm: NlmData
    kaggle: KaggleData


class Audit(Section):
    max_quarantined: Share
    min_side: Annotated[int, Field(ge=1, le=1000)]
    max_pixels: Annotated[int, Field(ge=1, le=100_000_000)]


class Split(Section):
    unit: Literal["patient", "image"]
    ratio: Annotated[tuple[Part, Part, Part], Field(description="a list of 3 numbers")]
    seed: Seed
    tolerance: Share
    file: Text
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
    colour: Colour
    size: Annotated[int, Field(ge=32, le=128)]


class Laboratories(Section):
    folder: Text
    leave_out: tuple[str, ...]


class Train(Section):
    start: Text
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
    stain: Annotated[float, Field(ge=0, le=1)]
    rim: Annotated[float, Field(ge=0, le=1)]
    gradient: Annotated[float, Field(ge=0, le=0.5)]
    focus: Annotated[float, Field(ge=0, le=2)]
    noise: Annotated[float, Field(ge=0, le=50)]
    noisy_labels: Literal["keep", "drop", "soften"]
    labels_file: Text
    distribute: Literal["none", "mirrored"]
    threads: Annotated[int, Field(ge=1, le=1024)]
    deterministic: bool


class Evaluate(Section):
    specificities: Annotated[tuple[Part, ...], Field(min_length=1, description="a list that is not empty")]
    resamples: Annotated[int, Field(ge=100, le=100_000)]
    seed: Seed
    bins: Annotated[int, Field(ge=2, le=100)]
    min_cells: Annotated[int, Field(ge=1, le=1000)]
    doubtful_labels: Text


class Export(Section):
    precision: Literal["float32", "float16", "int8"]


class External(Section):
    folder: Text


class Gate(Section):
    min_cells: Annotated[int, Field(ge=1, le=1_000_000)]
    min_patients: Share
    min_auc: Share
    specificity: Part
    auc_loss: Share
    sensitivity_loss: Share
    point_loss: Share
    max_ece: Share
    max_bytes: Annotated[int, Field(ge=1, le=1_000_000_000)]
    rerun: tuple[Stage, ...]
    max_drift: Share
    override: Text


class Params(Section):
    data: Data
    audit: Audit
    split: Split
    pack: Pack
    laboratories: Laboratories
    train: Train
    evaluate: Evaluate
    export: Export
    external: External
    gate: Gate


class _Loader(yaml.SafeLoader):
    """Reads 1e-05 as a number, as YAML 1.2 does and DVC writes it; PyYAML's own loader needs a point.

    Keys are read as they are written: PyYAML would take the class folder `no` for false, and `007` for 7.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_params(path: Path = paths.PARAMS) -> Params:
    """Read and check `params.yaml`.

    Raises:
        UserError: the file is missing or not YAML; a key is missing, unknown or mis-spelt, or its
            value is out of range. Only the first fault is named.
    """
    try:
        # By way of JSON a list may become a tuple, although the types are strict.
        content = json.dumps(yaml.load(path.read_text(encoding="utf-8"), _Loader), default=str)
        return Params.model_validate_json(content)
    except FileNotFoundError:
        raise UserError(f"{path} is not here: run this in the root of the repository.") from None
    except ValidationError as error:
        raise UserError(f"{path}: {_sentence(error)}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{where}: this is not valid YAML; correct the line and run again.") from None


def _sentence(error: ValidationError) -> str:
    """The first fault of `error` in words: key, value and what is allowed."""
    fault = error.errors()[0]
    *prefix, name = map(str, fault["loc"]) if fault["loc"] else ("the file",)
    key = ".".join([*prefix, name])
    if fault["type"] == "value_error":
        return f"{fault['ctx']['error']}."
    if fault["type"] == "extra_forbidden":
        keys = list(_schema_at(fault["loc"][:-1])["properties"])
        close = difflib.get_close_matches(name, keys, n=1)
        advice = f"did you mean {'.'.join([*prefix, *close])}?" if close else f"known: {', '.join(keys)}."
        return f"{key} is no parameter; {advice}"
    allowed = _allowed(_schema_at(fault["loc"]))
    if fault["type"] == "missing":
        hint = f" (`git diff {paths.PARAMS}` shows the lines that went)" if "section" in allowed else ""
        return f"{key} is missing; it must be {allowed}{hint}."
    return f"{key} is {json.dumps(fault['input'])}, but must be {allowed}."


def _schema_at(location: Sequence[int | str]) -> dict[str, Any]:
    """The JSON schema of the value at `location`."""
    root = schema = Params.model_json_schema()
    for part in location:
        if isinstance(part, int):
            schema = schema["prefixItems"][part] if "prefixItems" in schema else schema["items"]
        else:
            schema = schema.get("properties", {}).get(part) or schema["additionalProperties"]
        if "$ref" in schema:
            schema = root["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    return schema


def _allowed(schema: dict[str, Any]) -> str:
    """What `schema` allows, in words."""
    if "enum" in schema:
        return " or ".join(schema["enum"])
    words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    bounds = [f"{word} {schema[name]}" for name, word in words.items() if name in schema]
    kinds = {
        "integer": "an integer",
        "number": "a number",
        "string": "a text in quotes",
        "boolean": "true or false",
        "array": "a list",
        "object": "a section with keys",
    }
    return " ".join([schema.get("description") or kinds[schema["type"]], *bounds])
