"""mutag: 188 molecules, mutagenic or not."""
