"""Pure functions: tensors in, tensors out, no state, torch only."""

from ssl_zoo.functional.assignment import mira_assignment
from ssl_zoo.functional.information import AssignmentInformation, effective_rank, information
from ssl_zoo.functional.schedules import cosine, warmup_cosine
from ssl_zoo.functional.sinkhorn import SinkhornSolution, sinkhorn_labels, sinkhorn_solve


__all__ = [
    "AssignmentInformation",
    "SinkhornSolution",
    "cosine",
    "effective_rank",
    "information",
    "mira_assignment",
    "sinkhorn_labels",
    "sinkhorn_solve",
    "warmup_cosine",
]
