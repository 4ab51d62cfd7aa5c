"""What apps load: `malaria.bundle.load(folder).predict(images)`, without TensorFlow."""

from malaria.bundle.bundle import (
    CARD,
    NETWORK,
    PARTS,
    RECORD,
    Bundle,
    OperatingPoint,
    Predictions,
    Record,
    default_folder,
    load,
    opened,
    part,
    read_record,
)

__all__ = [
    "CARD",
    "NETWORK",
    "PARTS",
    "RECORD",
    "Bundle",
    "OperatingPoint",
    "Predictions",
    "Record",
    "default_folder",
    "load",
    "opened",
    "part",
    "read_record",
]
