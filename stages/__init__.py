"""One module for each stage of dvc.yaml."""

import importlib.util
import sys

# DVC runs the first `python` on the PATH: without activation the system's, which lacks the libraries.
if importlib.util.find_spec("dvc") is None:
    sys.exit(
        f"error: {sys.executable} is not this project's Python: activate the environment first "
        "(. .venv/bin/activate), or type `make repro`."
    )
