"""Web page and HTTP API that classify cells with a model bundle. They need no TensorFlow."""
