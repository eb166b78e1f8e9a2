"""Semi-discrete optimal transport: problem, solver, output.

N. Lei, Z. Luo, S.-T. Yau, D. X. Gu. "Geometric Understanding of Deep
Learning". arXiv 1805.10451v2, 2018; section 5. D. An, Y. Guo, N. Lei, Z. Luo,
S.-T. Yau, X. Gu. "AE-OT: A New Generative Model Based on Extended Semi-discrete
Optimal Transport". ICLR 2020.

μ is uniform on a box Ω, atoms y_i have weights ν_i.

  Brenier's potential u_h(x) = max_i <x, y_i> + h_i        assignment.best
  power cells W_i, exact in the plane                      power_cells
  E(h) = ∫ u_h dμ - Σ ν_i h_i, convex                      problems.energy
  ∂E/∂h_i = μ(W_i) - ν_i                                   problems.gradient
  ∂w_i/∂h_j = -|W_i ∩ W_j| / (|y_i - y_j| |Ω|)             problems.hessian
  errors of the masses                                     certificates.certify
  damped Newton in the plane                               solvers.Newton
  averaged SGD under an ε that falls                       solvers.Annealed
  AE-OT, algorithm 1: Adam, batch doubling                 solvers.AdamDoubling
  AE-OT, algorithm 2: the extended map                     extension

Departs from the paper: algorithm 1 stops by ‖w - ν‖, which at many atoms is
small everywhere (‖ν‖ = 1/√n): here by relative errors, on samples of their own
(`certify`). It starts from h = 0, which leaves cells empty; here from
-|y|² / 2, the Voronoi cells. Samples are drawn anew in every step.

Potentials of others: cost |x - y|² / 2 has ψ = h + |y|² / 2, cost |x - y|²
(OTT, POT) g = 2 h + |y|².
"""

from jaxlab.papers.geometry.certificates import Certificate as Certificate
from jaxlab.papers.geometry.certificates import certificate as certificate
from jaxlab.papers.geometry.certificates import certify as certify
from jaxlab.papers.geometry.certificates import sampled as sampled
from jaxlab.papers.geometry.certificates import transport_map as transport_map
from jaxlab.papers.geometry.problems import Affine as Affine
from jaxlab.papers.geometry.problems import Problem as Problem
from jaxlab.papers.geometry.problems import cells as cells
from jaxlab.papers.geometry.problems import closed_form_1d as closed_form_1d
from jaxlab.papers.geometry.problems import energy as energy
from jaxlab.papers.geometry.problems import (
  from_squared_cost as from_squared_cost,
)
from jaxlab.papers.geometry.problems import gradient as gradient
from jaxlab.papers.geometry.problems import hessian as hessian
from jaxlab.papers.geometry.problems import rescaled as rescaled
from jaxlab.papers.geometry.problems import to_squared_cost as to_squared_cost
from jaxlab.papers.geometry.solvers import AdamDoubling as AdamDoubling
from jaxlab.papers.geometry.solvers import Annealed as Annealed
from jaxlab.papers.geometry.solvers import Newton as Newton
from jaxlab.papers.geometry.solvers import Output as Output
from jaxlab.papers.geometry.solvers import Solver as Solver
from jaxlab.papers.geometry.solvers import solve as solve
