"""mnist: handwritten digits, the whole set, without TensorFlow."""
