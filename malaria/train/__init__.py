"""The network and how it learns: with `bundle.convert`, all there is of TensorFlow."""
