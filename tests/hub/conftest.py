"""A local Hub, and processes that use it as users' processes use the real one."""

import os
import shutil
import subprocess
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.forked import run as run_forked
from tests.forked import run_alone
from tests.hub.server import WRITE_TOKEN, HubServer, serve


ROOT = Path(__file__).parents[2]

# An environment without ssl_zoo, whatever is installed and wherever the process is started: a finder that refuses it.
WITHOUT_SSL_ZOO = """
import sys
class _Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "ssl_zoo":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, _Refuse())
"""


@dataclass
class LocalHub:
    """A server, and the environment that makes clients in other processes use it.

    Server and cache are those of earlier tests, emptied: processes are forked from one that has their addresses.
    """

    server: HubServer
    home: Path
    cache: Path
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.server.reset()
        shutil.rmtree(self.cache, ignore_errors=True)
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        self.environment = {
            **kept,
            "HOME": str(self.home),
            "HF_HOME": str(self.cache),
            "HF_ENDPOINT": self.server.endpoint,
            "HF_TOKEN": WRITE_TOKEN,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(ROOT),
        }

    @property
    def endpoint(self) -> str:
        return self.server.endpoint

    def run(
        self,
        *arguments: str,
        without_ssl_zoo: bool = False,
        forked: bool = True,
        check: bool = True,
        **environment: str | None,
    ) -> subprocess.CompletedProcess[str]:
        """Run Python in a process of its own, away from the sources; `None` removes an environment variable.

        One argument is code for `python -c`; several are a script (relative to the repository) and its arguments.
        What asks which modules are loaded is not to be `forked`.
        """
        env = {name: value for name, value in {**self.environment, **environment}.items() if value is not None}
        if len(arguments) == 1:
            code = textwrap.dedent(arguments[0])
            arguments = ("-c", WITHOUT_SSL_ZOO + code if without_ssl_zoo else code)
        else:
            arguments = (str(ROOT / arguments[0]), *arguments[1:])
        start = run_forked if forked else run_alone
        done = start(*arguments, cwd=self.home, env=env)
        if check and done.returncode != 0:
            raise AssertionError(f"process ended with {done.returncode}\n{done.stdout}\n{done.stderr[-6000:]}")
        return done


@pytest.fixture(scope="session")
def hub_server() -> Iterator[HubServer]:
    """The server that other processes ask."""
    with serve() as made:
        yield made


@pytest.fixture
def hub(hub_server: HubServer, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> LocalHub:
    """A fresh, empty Hub."""
    home = tmp_path / "home"
    home.mkdir()
    return LocalHub(hub_server, home, tmp_path_factory.getbasetemp() / "hub")


@pytest.fixture
def hub_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A fresh, empty Hub that `HfApi` uses in this process, for tests that push; loading models needs `hub.run`."""
    (tmp_path / "home").mkdir()
    with serve() as own_server:
        hub = LocalHub(own_server, tmp_path / "home", tmp_path / "cache")
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
        address = f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
        yield hub


@pytest.fixture(scope="module")
def shared_hub(hub_server: HubServer, tmp_path_factory: pytest.TempPathFactory) -> LocalHub:
    """A Hub for the tests of one file that only read what one of them published; `hub` would empty it."""
    return LocalHub(hub_server, tmp_path_factory.mktemp("home"), tmp_path_factory.getbasetemp() / "hub")
