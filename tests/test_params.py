"""params.yaml is read strictly: each mistake in it gives an error of one sentence."""

import re
from pathlib import Path

import pytest
import yaml

from malaria.errors import UserError
from malaria.params import Params, load_params

ROOT = Path(__file__).parents[1]


@pytest.fixture
def load(tmp_path):
    """Return a function that loads the repository's params.yaml with one key changed (None: removed)."""

    def _load(key, value):
        content = yaml.safe_load((ROOT / "params.yaml").read_text())
        *above, name = key.split(".")
        section = content
        for part in above:
            section = section[part]
        section.pop(name, None) if value is None else section.update({name: value})
        file = tmp_path / "params.yaml"
        file.write_text(yaml.safe_dump(content))
        return load_params(file)

    return _load


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("train.epochs", -3, "train.epochs is -3, but must be an integer from 1 to 1000."),
        ("train.epochs", "5", 'train.epochs is "5", but must be an integer from 1 to 1000.'),
        ("train.epoch", 3, "train.epoch is no parameter; did you mean train.epochs?"),
        ("train.epochs", None, "train.epochs is missing; it must be an integer from 1 to 1000."),
        ("train.flip", 1, "train.flip is 1, but must be true or false."),
        (
            "data.source",
            "web",
            'data.source is "web", but must be sample or nlm or kaggle or folder or fields.',
        ),
        ("data.nlm.sha256", "abc", 'data.nlm.sha256 is "abc", but must be 64 hexadecimal digits.'),
        ("data.kaggle.slug", "cells", 'data.kaggle.slug is "cells", but must be a text like owner/name.'),
        ("data.kaggle.version", 0, "data.kaggle.version is 0, but must be an integer from 1 to 10000."),
        (
            "data.classes",
            {"a": "b"},
            'data.classes.a is "b", but must be Parasitized or Uninfected or Unlabelled or Other.',
        ),
        (
            "data.fields.patient",
            "([",
            'data.fields.patient is "([", but must be a regular expression, or empty.',
        ),
        ("split.ratio", [0.5, 0.2, 0.2], "split.ratio adds up to 0.9, but must add up to 1."),
        ("split.ratio", [0.5, 0.5], "split.ratio.2 is missing; it must be a number above 0 below 1."),
        ("split.folds", 2, "split.folds is 2, but must be 0 (off) or at least 3."),
        (
            "evaluate.specificities",
            [],
            "evaluate.specificities is [], but must be a list that is not empty.",
        ),
        (
            "data.sample",
            None,
            "data.sample is missing; it must be a section with keys (`git diff params.yaml` shows",
        ),
        ("laboratories.leave_out", [2020], "laboratories.leave_out.0 is 2020, but must be a text in quotes."),
        ("train", 3, "train is 3, but must be a section with keys."),
        ("zzz", 3, "zzz is no parameter; known: data, audit, split"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(load, key, value, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        load(key, value)


def test_a_fold_beyond_the_folds_is_refused(load):
    split = yaml.safe_load((ROOT / "params.yaml").read_text())["split"]
    with pytest.raises(UserError, match=r"split.fold is 7, but must be under 5"):
        load("split", {**split, "folds": 5, "fold": 7})


def test_what_is_no_yaml_is_refused_with_its_line(tmp_path):
    (tmp_path / "params.yaml").write_text("train:\n  epochs: [1\nsplit: 3\n")
    with pytest.raises(UserError, match="line 3: this is not valid YAML"):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize("text", ["[" * 5000, "a: &a [*a]", "epochs: " + "9" * 5000])
def test_yaml_that_no_parameters_can_come_of_is_refused(tmp_path, text):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(UserError, match="this is not valid YAML"):
        load_params(tmp_path / "params.yaml")


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(UserError, match="run this in the root of the repository"):
        load_params(tmp_path / "params.yaml")


def test_every_parameter_is_explained_on_its_line():
    # `dvc exp run -S` moves a value that makes its line too long to the next line, with its comment.
    text = re.sub(r": *\n +(?=\w{64} )", ": ", (ROOT / "params.yaml").read_text())
    keys = [line for line in text.splitlines() if re.match(r" +\w+:", line)]
    bare = [line for line in keys if "#" not in line and not line.rstrip().endswith("sample:")]
    assert bare == []
    assert len(keys) > 30


def test_every_section_is_named_in_the_schema_in_the_order_of_the_file():
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert list(content) == list(Params.model_fields)


def test_the_pretrained_bundles_parameters_can_be_run_again():
    load_params(ROOT / "models/pretrained/params.yaml")


def test_the_name_of_a_class_folder_is_read_as_it_is_written(tmp_path):
    named = ("yes", "no", "007", "12:30", "2026-05-01", "~", "0")
    classes = ", ".join(f"{name}: Parasitized" for name in named)
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("classes: {} ", f"classes: {{{classes}}} "))
    assert tuple(load_params(tmp_path / "params.yaml").data.classes) == named


@pytest.mark.parametrize("written", ["1e-05", "0.00001", "1.0e-05"])
def test_a_small_number_may_be_written_with_or_without_an_exponent(tmp_path, written):
    file = tmp_path / "params.yaml"
    text = (ROOT / "params.yaml").read_text()
    file.write_text(re.sub(r"learning_rate: \S+", f"learning_rate: {written}", text))
    assert load_params(file).train.learning_rate == 1e-05
