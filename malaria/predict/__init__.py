"""Judge many images with a bundle: `malaria.predict.predict(bundle, items)` gives a row for each."""

from malaria.predict.rows import PREDICTED, REJECTED, UNREADABLE, Item, Row, predict, write

__all__ = ["PREDICTED", "REJECTED", "UNREADABLE", "Item", "Row", "predict", "write"]
