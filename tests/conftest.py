"""Every test runs on few threads, offline, and with a Hugging Face cache of its own."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


# Before torch and the Hugging Face libraries are imported: they read these once. Processes that tests start inherit
# them; a test marked `hub` starts its own with the address of a local server and HF_HUB_OFFLINE=0.
os.environ["OMP_NUM_THREADS"] = os.environ.get("SSL_ZOO_TEST_THREADS", "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
for _name in ("HF_TOKEN", "HF_ENDPOINT", "ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_CPU"):
    os.environ.pop(_name, None)
_CACHE = tempfile.TemporaryDirectory(prefix="ssl_zoo_tests_")
os.environ["HF_HOME"] = _CACHE.name
os.environ["XDG_CACHE_HOME"] = _CACHE.name

import pytest  # noqa: E402
import torch  # noqa: E402

from tests.kernels import chosen_kernels  # noqa: E402


ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> Iterator[None]:
    with chosen_kernels():
        yield
    _CACHE.cleanup()


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture
def one_core() -> Iterator[None]:
    """Keep this thread, and processes that it starts, on one core where memory is measured.

    Linux counts resident pages core by core and reads an approximate sum, wrong by up to megabytes for each core that
    the thread was on: a busy machine with many cores moves it about.
    """
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system can't keep a thread on one core")
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    yield
    os.sched_setaffinity(0, cores)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this machine can't run, and say why."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
