"""Every test runs on few threads, offline, and with a Hugging Face cache of its own."""

import os
import random
import tempfile
from collections.abc import Generator, Iterator
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
# Drawn once: the processes of pytest-xdist read it from the environment.
SEED = os.environ.setdefault("SSL_ZOO_TEST_SEED", str(random.SystemRandom().randrange(10**6)))

import pytest  # noqa: E402
import torch  # noqa: E402

from tests import turns  # noqa: E402
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


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Draws what differs from run to run, such as the moment of a kill; the seed is printed with a failure."""
    return random.Random(f"{SEED}/{request.node.nodeid}")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of this suite."""
    words = "run only tests of what has changed and, in turn, others, for about so many seconds (see tests/turns.py)"
    parser.addoption("--for-seconds", type=float, metavar="SECONDS", help=words)


@pytest.hookimpl(trylast=True)  # after -m and -k have selected
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect slow tests whose turn it isn't."""
    if (seconds := config.getoption("--for-seconds")) is not None:
        chosen = turns.choose(items, seconds=seconds)
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in chosen])
        items[:] = [item for item in items if item.nodeid in chosen]


def pytest_report_header() -> str:
    """Print before the tests how to repeat their random draws."""
    return f"random moments: SSL_ZOO_TEST_SEED={SEED}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Print with a failure how to repeat the test's random draws."""
    report = yield
    if report.failed and "chance" in getattr(item, "fixturenames", ()):
        report.sections.append(("Random moments", f"SSL_ZOO_TEST_SEED={SEED} draws them again."))
    return report


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this machine can't run, and say why."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
