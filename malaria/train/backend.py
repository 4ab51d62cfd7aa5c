"""Keras and TensorFlow, set up before they are first imported: import both from here."""

import os

from malaria.command import without_native_logs

# TensorFlow's C++ side reads these at import. What it says before that, and when it looks for a GPU,
# it says whatever stands here.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# oneDNN's kernels train nearly twice as fast on two cores. By itself TensorFlow takes them on some
# processors only, and a training's bytes would depend on which.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
with without_native_logs():
    import keras
    import tensorflow as tf

    tf.config.list_physical_devices()

__all__ = ["keras", "tf"]
