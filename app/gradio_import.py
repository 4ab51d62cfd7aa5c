"""Import Gradio, set up so that it contacts no other machine; other modules import it from here."""

import os

import jinja2

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"
# Hide proxies from the import: Gradio makes HTTP clients then, and fails if SOCKS needs another library.
_PROXIES = {name: os.environ.pop(name) for name in list(os.environ) if name.lower().endswith("_proxy")}

import gradio as gr  # noqa: E402
from gradio.context import LocalContext  # noqa: E402
from gradio.routes import templates as _templates  # noqa: E402

os.environ.update(_PROXIES)

# The page is in English, but Gradio's own words would follow the browser's language. Gradio reads that
# before it runs the scripts of its `head` option, so this script has to come first.
_ENGLISH = "<head><script>Object.defineProperty(navigator, 'language', {get: () => 'en'})</script>"
_PAGES = _templates.env.loader
_templates.env.loader = jinja2.FunctionLoader(
    lambda name: _PAGES.get_source(_templates.env, name)[0].replace("<head>", _ENGLISH, 1)
)

__all__ = ["LocalContext", "gr"]
