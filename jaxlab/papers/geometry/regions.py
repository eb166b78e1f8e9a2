"""Linear regions of piecewise linear networks, counted exactly; and bounds.

N. Lei, Z. Luo, S.-T. Yau, D. X. Gu. "Geometric Understanding of Deep
Learning". arXiv 1805.10451v2, 2018; section 4. (The journal paper of this
title, Engineering 6(3), 2020, has other theorems.)

  definition 4.2, N(φ): maximal connected sets with one affine map   .linear
  definition 4.7, D(φ): sets of one activation pattern             .activation
  along a segment     count_segment, count_segments    segments.py
                      march, march_segments            marching.py
  on a plane          slice_polygons                   slices.py
  in a box            enumerate_cells                  enumeration.py
  lemma 4.4, theorem 4.5, bounds of others             bounds.py

Only cells of full dimension count. Several units that are dead behind a bend
make .activation the larger of the two counts. For max pooling the pattern is
the place of the maximum. All is float64.

Departs from the paper: the product of theorem 4.5 counts the last, linear
layer, and takes each layer's width where the running minimum of the widths is
enough; `bounds` has it as it is printed beside tighter ones.
"""

from jaxlab.papers.geometry.bounds import bounds as bounds
from jaxlab.papers.geometry.bounds import parts_of as parts_of
from jaxlab.papers.geometry.enumeration import Cells as Cells
from jaxlab.papers.geometry.enumeration import (
  enumerate_cells as enumerate_cells,
)
from jaxlab.papers.geometry.marching import March as March
from jaxlab.papers.geometry.marching import march as march
from jaxlab.papers.geometry.marching import march_segments as march_segments
from jaxlab.papers.geometry.networks import Layers as Layers
from jaxlab.papers.geometry.networks import Net as Net
from jaxlab.papers.geometry.networks import checked_layers as checked_layers
from jaxlab.papers.geometry.networks import dense as dense
from jaxlab.papers.geometry.segments import Count as Count
from jaxlab.papers.geometry.segments import Pieces as Pieces
from jaxlab.papers.geometry.segments import count_segment as count_segment
from jaxlab.papers.geometry.segments import count_segments as count_segments
from jaxlab.papers.geometry.slices import Slice as Slice
from jaxlab.papers.geometry.slices import slice_polygons as slice_polygons
