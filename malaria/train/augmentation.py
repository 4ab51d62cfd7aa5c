"""Augmentation of train cells: rotation, shear, zoom, flips, and stain and illumination jitter.

Everything a cell undergoes follows from its row of random numbers (see `draws`); the work itself is
done a batch at a time, inside TensorFlow's graph.
"""

import numpy as np
import numpy.typing as npt

from malaria import params
from malaria.train.backend import tf

# Random numbers a cell: rotation, shear, zoom, two flips, three channel gains, one common gain.
NUMBERS = 9


def affine(numbers: npt.NDArray[np.float64], settings: params.Train, size: int) -> npt.NDArray[np.float32]:
    """The geometric part, as the projective transforms that TensorFlow's image ops take.

    Args:
        numbers: float64 (n, NUMBERS) in [0, 1).
        size: px, side of the square images.

    Returns:
        float32 (n, 8), from output to input pixels, about the image's centre.
    """
    signed = 2 * numbers - 1
    angle = np.radians(settings.rotation) * signed[:, 0]
    shear = np.tan(np.radians(settings.shear) * signed[:, 1])
    scale = 1 + settings.zoom * signed[:, 2]
    flip_x, flip_y = np.where(settings.flip & (numbers[:, 3:5] < 0.5), -1.0, 1.0).T
    cos, sin = np.cos(angle), np.sin(angle)
    # Rotation times shear times flip, over the zoom.
    a, b = cos * flip_x / scale, (cos * shear - sin) * flip_y / scale
    c, d = sin * flip_x / scale, (sin * shear + cos) * flip_y / scale
    centre = (size - 1) / 2
    zeros = np.zeros_like(a)
    rows = (a, b, centre * (1 - a - b), c, d, centre * (1 - c - d), zeros, zeros)
    return np.stack(rows, axis=1).astype(np.float32)


def gains(numbers: npt.NDArray[np.float64], settings: params.Train) -> npt.NDArray[np.float32]:
    """The colour part: a gain for each channel, float32 (n, 3); black outside the cell stays black."""
    signed = 2 * numbers - 1
    return ((1 + settings.colour * signed[:, 5:8]) * (1 + settings.brightness * signed[:, 8:9])).astype(
        np.float32
    )


def apply(images: tf.Tensor, transforms: tf.Tensor, colour: tf.Tensor) -> tf.Tensor:
    """Augment a batch.

    Args:
        images: uint8 (n, size, size, 3).
        transforms: float32 (n, 8), of `affine`.
        colour: float32 (n, 3), of `gains`.

    Returns:
        float32 (n, size, size, 3) in [0, 255]; what comes from outside an image is black.
    """
    images = tf.cast(images, tf.float32)
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=transforms,
        # As far as it is known when a graph is made: what comes after may ask for it.
        output_shape=images.shape[1:3],
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
        fill_value=0.0,
    )
    return tf.clip_by_value(moved * colour[:, None, None, :], 0.0, 255.0)
