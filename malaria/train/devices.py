"""Which devices the network trains on, and in which precision."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from malaria.errors import UserError
from malaria.train.backend import keras, tf


@dataclass(frozen=True)
class Devices:
    """Where a training runs.

    strategy: TensorFlow's strategy, which runs each step on its replicas; the default one has one replica.
    precision: Keras's dtype policy: `float32`, or `mixed_float16`, which keeps weights in float32 and
        computes in float16.
    """

    strategy: tf.distribute.Strategy
    precision: str

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Networks that are built in this block train on these devices."""
        previous = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self.precision)
        try:
            with self.strategy.scope():
                yield
        finally:
            keras.config.set_dtype_policy(previous)

    def __str__(self) -> str:
        kind = "CPU" if self.precision == "float32" else "GPU"
        return f"{self.strategy.num_replicas_in_sync} x {kind}, {self.precision}"


def choose(distribute: str) -> Devices:
    """The devices to train on: GPUs in mixed precision if there are any, else the processor.

    Args:
        distribute: `none` takes one device; `mirrored` takes all, each with an equal part of every batch.

    Raises:
        UserError: `mirrored`, but the processor is divided into several devices and TensorFlow uses oneDNN,
            whose normalisation mixes up the parts' gradients (TensorFlow 2.21).
    """
    gpus = tf.config.list_logical_devices("GPU")
    names = [device.name for device in gpus or tf.config.list_logical_devices("CPU")]
    precision = "mixed_float16" if gpus else "float32"
    if distribute == "none" or len(names) == 1:
        return Devices(tf.distribute.get_strategy(), precision)
    if not gpus and os.environ["TF_ENABLE_ONEDNN_OPTS"] != "0":
        raise UserError(
            "train.distribute is mirrored, but TensorFlow's oneDNN kernels cannot train on a processor that "
            "is divided: set TF_ENABLE_ONEDNN_OPTS=0 in the environment, or train.distribute to none in "
            "params.yaml."
        )
    # NCCL, the default, works on GPUs only.
    reduction = None if gpus else tf.distribute.ReductionToOneDevice()
    return Devices(tf.distribute.MirroredStrategy(names, cross_device_ops=reduction), precision)


def in_words(devices: Devices, distribute: str) -> str:
    """What you should know of `devices`; empty for the usual ones."""
    if distribute == "mirrored" and devices.strategy.num_replicas_in_sync == 1:
        return f"train.distribute is mirrored, but there is one device here ({devices}): the same as none"
    return f"Training on {devices}" if str(devices) != "1 x CPU, float32" else ""
