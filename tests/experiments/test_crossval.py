"""Cross-validation that leaves out a laboratory: its cells are judged by a network that never saw them."""

import json
import sys

import pytest
from PIL import Image

from app import pictures
from malaria import labels
from tests.support import project


@pytest.mark.long
def test_a_laboratory_that_is_left_out_is_judged_by_a_network_that_never_saw_it(repository):
    for number, (pixels, infected) in enumerate(pictures.drawn(12, seed=5)):
        file = repository / "data/others/west" / labels.LABELS[infected] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    command = (sys.executable, "-m", "experiments.crossval", "--folds", "3", "--leave-out", "laboratories")
    project.run(*command, "--set", "train.epochs=1", cwd=repository)
    written = (repository / "reports/crossval/crossval-laboratories.json").read_text()
    ((name, found),) = json.loads(written).items()
    # If the network had learned from the set, all its cells would be known.
    assert (name, found["cells"], found["parasitized"], found["known"]) == ("west", 12, 6, 0)
