"""Which version is stored against which: a pure choice between measured costs.

The writer measures what each candidate would cost; this island decides. It knows no store, no clock and no randomness,
so the same costs give the same plan on every machine. `choose` decides for one new version, `solve` for all there are.
"""

from modelvault.planner.choice import MAX_DEPTH, Allowance, Candidate, choose
from modelvault.planner.graph import ROOT, Edge, Graph, Limits
from modelvault.planner.plan import Plan
from modelvault.planner.solve import bound, solve
from modelvault.planner.stretch import neighbours, wanted_edges

__all__ = [
    "MAX_DEPTH",
    "ROOT",
    "Allowance",
    "Candidate",
    "Edge",
    "Graph",
    "Limits",
    "Plan",
    "bound",
    "choose",
    "neighbours",
    "solve",
    "wanted_edges",
]
