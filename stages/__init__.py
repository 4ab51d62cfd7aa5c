"""One module for each stage of dvc.yaml."""

import importlib.util
import sys

# DVC takes the `python` that it finds: without activation the system's, which has none of the libraries.
if importlib.util.find_spec("dvc") is None:
    sys.exit(
        f"error: {sys.executable} is not this project's Python: activate the environment first "
        "(. .venv/bin/activate), or type `make repro`."
    )
