"""What apps load: `malaria.bundle.load(folder).predict(images)`, without TensorFlow."""

from malaria.bundle.bundle import (
    CARD,
    MANIFEST,
    NETWORK,
    PARTS,
    RECORD,
    Bundle,
    OperatingPoint,
    Predictions,
    Record,
    check_manifest,
    default_folder,
    load,
    opened,
    part,
    read_record,
    write_manifest,
)

__all__ = [
    "CARD",
    "MANIFEST",
    "NETWORK",
    "PARTS",
    "RECORD",
    "Bundle",
    "OperatingPoint",
    "Predictions",
    "Record",
    "check_manifest",
    "default_folder",
    "load",
    "opened",
    "part",
    "read_record",
    "write_manifest",
]
