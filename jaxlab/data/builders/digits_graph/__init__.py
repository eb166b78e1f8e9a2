"""digits_graph: handwritten digits joined to their nearest neighbours."""
