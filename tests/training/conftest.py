"""What tests of training share."""

from collections.abc import Iterator

import pytest
from accelerate.state import AcceleratorState, GradientState, PartialState


@pytest.fixture
def fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps its state in singletons; a run of one test is nobody else's business."""
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    PartialState._reset_state()
