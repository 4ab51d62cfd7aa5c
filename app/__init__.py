"""A web page that asks a model bundle about cells. It needs `malaria`'s bundle runtime, and no TensorFlow."""
