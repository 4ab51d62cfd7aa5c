"""Augmentation of train cells: rotation, shear, zoom, flips; stain, light, rim, focus and noise."""

import math

import numpy as np
import numpy.typing as npt

from malaria import params
from malaria.cells.prepared import BLACK, LIGHT
from malaria.train.backend import tf

# Random numbers for each cell: rotation, shear, zoom, two flips; gain of each channel and of all; stain of
# each channel; rim; focus; direction and strength of a gradient of light; two seeds of the noise (those of
# the batch's first cell), the second of which is also the strength of the cell's noise.
NUMBERS = 18

# Images that `augment_once` augments together.
_BATCH = 64


def augment(images: tf.Tensor, numbers: tf.Tensor, settings: params.Train) -> tf.Tensor:
    """Augment a batch.

    Args:
        images: uint8 (n, size, size, 3).
        numbers: float32 (n, NUMBERS) in [0, 1), which decide everything that happens to the images.

    Returns:
        float32 (n, size, size, 3) in [0, 255]. Places from outside an image are black, and black stays black.
    """
    transformed = _focused(_transformed(images, numbers, settings), numbers, settings)
    # Drawn outside the compiled functions, because XLA draws random numbers slowly.
    noise = tf.random.stateless_normal(tf.shape(transformed), tf.cast(numbers[0, 16:18] * 2.0**31, tf.int32))
    return _stained(transformed, noise, numbers, settings)


def augment_once(images: npt.NDArray[np.uint8], settings: params.Train) -> npt.NDArray[np.uint8]:
    """Augment each image once, uint8 (n, size, size, 3); the same settings give the same result."""
    augmented = np.empty_like(images)
    random = np.random.default_rng(settings.seed)
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        # Always a full batch, because XLA compiles again for another size.
        full = np.resize(batch, (_BATCH, *images.shape[1:]))
        numbers = random.random((_BATCH, NUMBERS), dtype=np.float32)
        augmented[start : start + _BATCH] = np.rint(augment(full, numbers, settings))[: len(batch)]
    return augmented


# XLA makes one loop of this, in a quarter of the time of TensorFlow's own projective transform.
@tf.function(jit_compile=True)  # type: ignore[untyped-decorator]
def _transformed(images: tf.Tensor, numbers: tf.Tensor, settings: params.Train) -> tf.Tensor:
    """The images rotated, sheared, zoomed and flipped."""
    a, b, c, d = tf.unstack(_matrices(2 * numbers - 1, settings)[..., None, None], axis=1)
    centre, y, x = _grid(images)
    return _interpolated(images, a * x + b * y + centre, c * x + d * y + centre)


# Without XLA, with which pooling is slow.
@tf.function  # type: ignore[untyped-decorator]
def _focused(images: tf.Tensor, numbers: tf.Tensor, settings: params.Train) -> tf.Tensor:
    """The images blurred or sharpened: moved towards or away from the mean of the pixels around.

    Only pixels of the cell count, so that the black outside does not run into the cell.
    """
    strength = settings.focus * (2 * numbers[:, 13, None, None, None] - 1)
    inside = tf.cast(tf.reduce_max(images, axis=-1, keepdims=True) > BLACK, tf.float32)
    neighbourhood = tf.concat([images * inside, inside], axis=-1)
    for _ in range(2):
        neighbourhood = tf.nn.avg_pool2d(neighbourhood, 3, 1, "SAME")
    mixed = images + strength * (neighbourhood[..., :3] / tf.maximum(neighbourhood[..., 3:], 1e-3) - images)
    return tf.where(inside > 0, tf.maximum(mixed, 0.0), images)


@tf.function(jit_compile=True)  # type: ignore[untyped-decorator]
def _stained(images: tf.Tensor, noise: tf.Tensor, numbers: tf.Tensor, settings: params.Train) -> tf.Tensor:
    """The images with another stain, a darker or paler rim, another and uneven light, and noise."""
    signed = 2 * numbers - 1
    gains = (1 + settings.colour * signed[:, 5:8]) * (1 + settings.brightness * signed[:, 8:9])
    centre, y, x = _grid(images)
    y, x = y / centre, x / centre
    rim = 1 + settings.rim * signed[:, 12, None, None] * tf.minimum(x * x + y * y, 1.0) ** 2
    density = -tf.math.log(tf.maximum(images, 1.0) / LIGHT) * rim[..., None]
    density *= tf.exp(settings.stain * signed[:, None, None, 9:12])
    angle, strength = math.pi * signed[:, 14, None, None], settings.gradient * numbers[:, 15, None, None]
    light = 1 + strength * (tf.cos(angle) * x + tf.sin(angle) * y)
    stained = LIGHT * tf.exp(-density) * light[..., None] * gains[:, None, None, :]
    stained += settings.noise * numbers[:, 17, None, None, None] * noise
    return tf.clip_by_value(tf.where(images > 1.0, stained, images), 0.0, 255.0)


def _grid(images: tf.Tensor) -> tuple[float, tf.Tensor, tf.Tensor]:
    """The centre of a side, and how far below and right of it each pixel lies, float32 (size, size)."""
    centre = (images.shape[1] - 1) / 2
    positions = tf.range(images.shape[1], dtype=tf.float32) - centre
    y, x = tf.meshgrid(positions, positions, indexing="ij")
    return centre, y, x


def _matrices(signed: tf.Tensor, settings: params.Train) -> tf.Tensor:
    """Matrices from output to input pixels about the centre, float32 (n, 4), row after row.

    A matrix is rotation times shear times flips, divided by the zoom.
    """
    rotation, shear, zoom, flip_x, flip_y = tf.unstack(signed[:, :5], axis=1)
    angle, shear = math.radians(settings.rotation) * rotation, tf.tan(math.radians(settings.shear) * shear)
    cos, sin, scale = tf.cos(angle), tf.sin(angle), 1 + settings.zoom * zoom
    x, y = (tf.where(settings.flip & (flip < 0), -1.0, 1.0) / scale for flip in (flip_x, flip_y))
    return tf.stack([cos * x, (cos * shear - sin) * y, sin * x, (sin * shear + cos) * y], axis=1)


def _interpolated(images: tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """`images` at (x, y), bilinear between pixels, float32 (n, size, size, 3)."""
    size = images.shape[1]
    # Places outside the image read from a black rim.
    rimmed = tf.pad(images, [[0, 0], [1, 2], [1, 2], [0, 0]])
    x, y = tf.clip_by_value(x, -1.0, size) + 1, tf.clip_by_value(y, -1.0, size) + 1
    left, top = tf.floor(x), tf.floor(y)
    dx, dy = (x - left)[..., None], (y - top)[..., None]
    corner = tf.cast(tf.stack([top, left], axis=-1), tf.int32)

    def corner_value(row: int, column: int) -> tf.Tensor:
        return tf.cast(tf.gather_nd(rimmed, corner + tf.constant((row, column)), batch_dims=1), tf.float32)

    upper = corner_value(0, 0) * (1 - dx) + corner_value(0, 1) * dx
    lower = corner_value(1, 0) * (1 - dx) + corner_value(1, 1) * dx
    return upper * (1 - dy) + lower * dy
