"""wordnet_graph: WordNet 3.0 as one graph with glosses."""
