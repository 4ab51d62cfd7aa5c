"""Gradio, imported without what only its developers need: `from .gradio_import import gr`.

Gradio parses its own sources and rewrites its type stubs at every import. That takes longer than
all the rest of the start, and fails or races where several apps share one installation.
"""

import contextlib
import inspect
import os
from collections.abc import Iterator
from typing import Any

# Read at import. Nothing of the app asks another machine for anything.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"
# Of as many past requests Gradio keeps what its monitoring page, which is off, would show: 10,000 otherwise.
os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "100"


@contextlib.contextmanager
def _no_stubs() -> Iterator[None]:
    """Classes of components that are made in this block get no type stub beside their source."""
    getfile = inspect.getfile

    def without_sources(thing: Any) -> str:
        # Gradio takes this for a component without a source file, and writes no stub.
        if type(thing).__name__ == "ComponentMeta":
            raise OSError("no stub wanted")
        return getfile(thing)

    inspect.getfile = without_sources  # type: ignore[assignment]
    try:
        yield
    finally:
        inspect.getfile = getfile


with _no_stubs():
    import gradio as gr

    class CellImage(gr.Image):  # type: ignore[misc]
        """Gradio's image box, whose file reaches us as it was uploaded: only `images.read` decodes it."""

        is_template = True

        def preprocess(self, payload: Any) -> Any:
            return None if payload is None else payload.path


__all__ = ["CellImage", "gr"]
