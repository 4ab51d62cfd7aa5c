"""Gradio, set up before its import so that nothing of it asks another machine."""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"
# Gradio makes HTTP clients at its import, and fails where a proxy's kind (SOCKS) needs another library.
_PROXIES = {name: os.environ.pop(name) for name in list(os.environ) if name.lower().endswith("_proxy")}

import gradio as gr  # noqa: E402

os.environ.update(_PROXIES)

__all__ = ["gr"]
