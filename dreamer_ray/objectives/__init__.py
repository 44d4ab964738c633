"""One equation a file, as free functions over tensors."""
