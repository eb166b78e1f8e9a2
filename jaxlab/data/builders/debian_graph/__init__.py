"""debian_graph: the packages of an apt index and what they depend on."""
