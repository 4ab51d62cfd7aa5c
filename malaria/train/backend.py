"""Keras and TensorFlow, set up before they are first imported: import both from here."""

import os

import threadpoolctl

from malaria.command import without_native_logs
from malaria.errors import UserError

# TensorFlow's C++ code reads these at import. They do not silence what it logs before that and when it looks
# for a GPU: `without_native_logs` below does.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# oneDNN's kernels train nearly twice as fast on two cores. By default TensorFlow uses them on some processors
# only, and the bytes of a training would depend on which.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

with without_native_logs():
    import keras
    import tensorflow as tf

    tf.config.list_physical_devices()

__all__ = ["keras", "tf", "use_threads"]


def use_threads(count: int) -> None:
    """Compute with `count` threads from now on, in TensorFlow and BLAS, however many cores there are.

    The number of threads that share a sum decides in which order it is added up, and so its last bits. Call
    this before TensorFlow computes anything.

    Raises:
        UserError: TensorFlow already computes, with another number of threads.
    """
    try:
        tf.config.threading.set_intra_op_parallelism_threads(count)
        tf.config.threading.set_inter_op_parallelism_threads(count)
    except RuntimeError:
        raise UserError(
            f"TensorFlow already computes in this process, not with the {count} threads of train.threads: "
            "start a new process."
        ) from None
    threadpoolctl.threadpool_limits(count)
