"""Start the app in a Hugging Face Space, from the package `malaria` beside this file."""

import os
import sys

from malaria.__main__ import command

if __name__ == "__main__":
    port, host = os.environ.get("GRADIO_SERVER_PORT", "7860"), os.environ.get("SPACE_HOST", "localhost")
    sys.argv[1:] = ["app", "--host", "0.0.0.0", "--port", port, "--allow-host", host]
    sys.argv += ["--allow-frame", "https://huggingface.co"]
    command()
