"""Pure functions: tensors in, tensors out, no state, torch only."""

from ssl_zoo.functional.assignment import mira_assignment
from ssl_zoo.functional.information import Information, information
from ssl_zoo.functional.schedules import cosine, warmup_cosine


__all__ = ["Information", "cosine", "information", "mira_assignment", "warmup_cosine"]
