"""The network and its training: with `bundle.convert`, all that uses TensorFlow in this package."""
