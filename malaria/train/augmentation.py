"""Augmentation of train cells: rotation, shear, zoom, flips, and stain and illumination jitter."""

import math

from malaria import params
from malaria.train.backend import tf

# Random numbers for each cell: rotation, shear, zoom, two flips, three channel gains, one common gain.
NUMBERS = 9


# XLA makes one loop of it all: a quarter of the time of TensorFlow's own projective transform.
@tf.function(jit_compile=True)  # type: ignore[untyped-decorator]
def augment(images: tf.Tensor, numbers: tf.Tensor, settings: params.Train) -> tf.Tensor:
    """Augment a batch.

    Args:
        images: uint8 (n, size, size, 3).
        numbers: float32 (n, NUMBERS) in [0, 1): they decide all that happens to each image.

    Returns:
        float32 (n, size, size, 3) in [0, 255]; what comes from outside an image is black, and black stays
        black.
    """
    signed = 2 * numbers - 1
    gains = (1 + settings.colour * signed[:, 5:8]) * (1 + settings.brightness * signed[:, 8:])
    a, b, c, d = tf.unstack(_linear(signed, settings)[..., None, None], axis=1)
    centre = (images.shape[1] - 1) / 2
    places = tf.range(images.shape[1], dtype=tf.float32) - centre
    y, x = tf.meshgrid(places, places, indexing="ij")
    moved = _sampled(images, a * x + b * y + centre, c * x + d * y + centre)
    return tf.clip_by_value(moved * gains[:, None, None, :], 0.0, 255.0)


def _linear(signed: tf.Tensor, settings: params.Train) -> tf.Tensor:
    """From output to input pixels about the centre, float32 (n, 4), the rows of a matrix one after the other:
    rotation times shear times flips, over the zoom.
    """
    rotation, shear, zoom, flip_x, flip_y = tf.unstack(signed[:, :5], axis=1)
    angle, shear = math.radians(settings.rotation) * rotation, tf.tan(math.radians(settings.shear) * shear)
    cos, sin, scale = tf.cos(angle), tf.sin(angle), 1 + settings.zoom * zoom
    x, y = (tf.where(settings.flip & (flip < 0), -1.0, 1.0) / scale for flip in (flip_x, flip_y))
    return tf.stack([cos * x, (cos * shear - sin) * y, sin * x, (sin * shear + cos) * y], axis=1)


def _sampled(images: tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """`images` at (x, y), between pixels bilinear, float32 (n, size, size, 3)."""
    size = images.shape[1]
    # What lies outside comes from a black rim.
    rimmed = tf.pad(images, [[0, 0], [1, 2], [1, 2], [0, 0]])
    x, y = tf.clip_by_value(x, -1.0, size) + 1, tf.clip_by_value(y, -1.0, size) + 1
    left, top = tf.floor(x), tf.floor(y)
    right, low = (x - left)[..., None], (y - top)[..., None]
    corner = tf.cast(tf.stack([top, left], axis=-1), tf.int32)

    def at(row: int, column: int) -> tf.Tensor:
        return tf.cast(tf.gather_nd(rimmed, corner + tf.constant((row, column)), batch_dims=1), tf.float32)

    upper = at(0, 0) * (1 - right) + at(0, 1) * right
    lower = at(1, 0) * (1 - right) + at(1, 1) * right
    return upper * (1 - low) + lower * low
