"""The Ray layer: thin actors over the pure core. Only this package and ``serve`` import ray."""
