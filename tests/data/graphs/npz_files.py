"""Files of graphs as `npz.read_npz` reads them."""

import numpy as np
import scipy.sparse


def write_npz(path, graph):
  """Writes a `NodeGraph` with numeric features."""
  features = scipy.sparse.csr_array(graph.features)
  np.savez(
    path,
    feature_indptr=features.indptr,
    feature_indices=features.indices,
    feature_values=features.data,
    num_features=np.int32(features.shape[1]),
    edges=graph.edges,
    labels=graph.labels,
    classes=np.array(graph.classes, str),
    directed=np.bool_(graph.directed),
    train=graph.nodes_of('train'),
    val=graph.nodes_of('validation'),
    test=graph.nodes_of('test'),
  )
