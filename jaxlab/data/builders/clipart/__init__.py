"""clipart: drawings in thirteen classes."""
