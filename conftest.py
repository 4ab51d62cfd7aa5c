"""Run the code blocks of README and docs as tests, with Sybil.

tests/test_documentation.py runs `pytest -p no:randomly README.md docs`. Blocks of `sh`, `python` and `yaml`
run page by page and in order, in a copy of this repository with some drawn cells. A comment before a block
that cannot run says why. A `console` block is the transcript of a longer run, and is not run.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

from app import pictures
from malaria import labels, params
from tests.support import project


def start(namespace: dict[str, Any]) -> None:
    namespace["before"], namespace["folder"] = os.getcwd(), tempfile.mkdtemp()
    project.start(Path(namespace["folder"]), {})
    os.chdir(namespace["folder"])
    for number, (pixels, infected) in enumerate(pictures.cells(24, seed=30)):
        file = Path("labelled-folder", labels.LABELS[infected], f"{number}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    shutil.copytree("labelled-folder", "folder")
    shutil.make_archive("cells", "zip", "folder")
    shutil.copy("folder/Parasitized/0.png", "cell.png")


def stop(namespace: dict[str, Any]) -> None:
    os.chdir(namespace["before"])
    shutil.rmtree(namespace["folder"])


def run(example: Example) -> None:
    # The remotes of docs/remote.md are alternatives: each starts without another one.
    Path(".dvc/config.local").unlink(missing_ok=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "-euo", "pipefail", "-c", example.parsed]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, env={**os.environ, "PATH": path})


def check_parameters(example: Example) -> None:
    content = yaml.safe_load(example.parsed)
    changes = {f"{section}.{key}": value for section, keys in content.items() for key, value in keys.items()}
    project.change(Path(), changes)
    params.load_params()


pytest_collect_file = Sybil(
    parsers=[
        PythonCodeBlockParser(),
        CodeBlockParser("sh", run),
        CodeBlockParser("yaml", check_parameters),
        SkipParser(),
    ],
    patterns=["README.md", "CONTRIBUTING.md", "docs/*.md"],
    setup=start,
    teardown=stop,
).pytest()
