"""Python processes that don't wait for imports: a server that has imported the frameworks forks them.

`run` and `Forked` take what stands behind `python` on a command line: a script, `-c` or `-m`, and arguments. Nothing
of `ssl_zoo` is imported before the fork, so that the process imports the package as it would by itself.
"""

import atexit
import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


ROOT = Path(__file__).resolve().parents[1]
FRAMEWORKS = (
    *("torch._dynamo", "torchvision.transforms.v2", "timm", "sklearn.cluster", "sklearn.metrics", "scipy.stats"),
    *("datasets", "evaluate", "accelerate.commands.launch", "matplotlib.pyplot", "cv2", "simplejpeg", "yaml"),
    *("transformers.modeling_utils", "transformers.models.auto.modeling_auto", "transformers.image_processing_utils"),
    *("transformers.models.timm_wrapper.modeling_timm_wrapper", "transformers.pipelines"),
)
_SERVERS: dict[tuple[tuple[str, str], ...], subprocess.Popen[str]] = {}


def run(
    *arguments: object, cwd: Path = ROOT, env: dict[str, str] | None = None, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)`."""
    return _run(arguments, [dict(os.environ if env is None else env)], cwd, timeout)


def run_alone(
    *arguments: object, cwd: Path = ROOT, env: dict[str, str] | None = None, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """The same without a server, for what asks which modules are loaded."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=cwd,
        env=env,
        timeout=timeout,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def run_two(*arguments: object, cwd: Path = ROOT, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """The same in two processes that `torch.distributed` joins, as `accelerate launch` starts them."""
    return _run(arguments, [{**os.environ, **part} for part in environments_of_two()], cwd, timeout)


def environments_of_two() -> list[dict[str, str]]:
    """What a launcher tells two processes on the processors of one machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    both = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    return [{**both, "RANK": str(rank), "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "true"} for rank in range(2)]


def _run(
    arguments: tuple[object, ...], envs: list[dict[str, str]], cwd: Path, timeout: float
) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as name:
        out, err = Path(name, "out"), Path(name, "err")
        processes = [Forked(*arguments, cwd=cwd, env=env, stdout=out, stderr=err) for env in envs]
        try:
            codes = [process.wait(timeout) for process in processes]
        except BaseException:
            for process in processes:
                process.kill(signal.SIGKILL)
            raise
        texts = [file.read_text(encoding="utf-8", errors="replace") for file in (out, err)]
    return subprocess.CompletedProcess(list(arguments), next(filter(None, codes), 0), *texts)


class Forked:
    """A process in a group of its own; output is appended to files.

    Args:
        arguments (`object`): What stands behind `python`.
        cwd (`Path`): Its working directory.
        env (`dict[str, str]`, *optional*): Its environment; by default this process's.
        stdout, stderr (`Path`): Files, which may be the same.
    """

    def __init__(
        self, *arguments: object, stdout: Path, stderr: Path, cwd: Path = ROOT, env: dict[str, str] | None = None
    ) -> None:
        env = dict(os.environ if env is None else env)
        self.arguments, self.returncode = list(map(str, arguments)), None
        self._server = _server_for(env)
        files = {"cwd": str(cwd), "stdout": str(stdout), "stderr": str(stderr)}
        self.pid = int(self._ask({"arguments": self.arguments, "env": env, **files}))

    def poll(self) -> int | None:
        """The exit status, negative for a signal; `None` while it runs."""
        if self.returncode is None:
            self.returncode = self._ask({"pid": self.pid})
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Its exit status; raises `subprocess.TimeoutExpired` if it still runs after so many seconds."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.arguments, timeout)
            time.sleep(0.01)
        return code

    def kill(self, number: signal.Signals) -> None:
        """Send a signal to it and to all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        assert answer, f"the server of forked processes has ended with {self._server.wait()}"
        return json.loads(answer)


def _server_for(env: dict[str, str]) -> subprocess.Popen[str]:
    """A server whose libraries have read these variables; most read theirs at import."""
    read = {name: env[name] for name in env if name.startswith(("HF_", "OMP_", "PYTHON", "TORCH"))}
    read.pop("HF_TOKEN", None)
    key = tuple(sorted(read.items()))
    if key not in _SERVERS:
        _SERVERS[key] = subprocess.Popen(
            [sys.executable, __file__], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    return _SERVERS[key]


@atexit.register
def _end_servers() -> None:
    for server in _SERVERS.values():
        server.communicate()


def _serve() -> dict[str, Any]:
    """Answer requests until the pipe is closed; return in the forked processes, with what each shall do."""
    for name in FRAMEWORKS:
        with contextlib.suppress(ImportError):
            __import__(name)
    gc.freeze()  # else each process would copy all pages of these objects when it collects garbage
    for line in sys.stdin:
        request = json.loads(line)
        if "pid" in request:
            pid, status = os.waitpid(request["pid"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif answer := os.fork():
            pass
        else:
            return request
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    sys.exit()


def _become(cwd: str, env: dict[str, str], stdout: str, stderr: str, **_: Any) -> None:
    """Take over directory, environment, output and module path of a process of its own."""
    os.setsid()
    os.chdir(cwd)
    for number, file in ((1, stdout), (2, stderr)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(env)


if __name__ == "__main__":
    _request = _serve()
    _become(**_request)
    _first, *_rest = _request["arguments"]
    del sys.modules["__main__"].__file__
    if _first == "-c":
        sys.path[0] = ""
        sys.argv = ["-c", *_rest[1:]]
        exec(compile(_rest[0], "<string>", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})
    else:
        import runpy

        if _first == "-m":
            sys.path[0] = os.getcwd()
            sys.argv = [_first, *_rest[1:]]
            runpy.run_module(_rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.path[0] = str(Path(_first).resolve().parent)
            sys.argv = [_first, *_rest]
            runpy.run_path(_first, run_name="__main__")
