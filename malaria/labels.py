"""What the two classes are called, which one is positive and which number stands for each.

Class folders sorted by name would make `Parasitized` 0 and `Uninfected` 1, as Keras does by
default. Here the positive class is `Parasitized` and its value is 1, everywhere.
"""

UNINFECTED = "Uninfected"
PARASITIZED = "Parasitized"
POSITIVE = PARASITIZED

# A label's value is its position here.
LABELS = (UNINFECTED, PARASITIZED)


def category(p_parasitized: float, threshold: float = 0.5) -> str:
    """The label of a cell whose probability is `p_parasitized`; the threshold itself is positive."""
    return PARASITIZED if p_parasitized >= threshold else UNINFECTED
