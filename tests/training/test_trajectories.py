"""Every method has known trajectories and resumes exactly after kill -9.

Every fixture of `tests/methods` is trained. `python -m tests.training.test_trajectories NAME [NAME ...]` writes the
known trajectories of the fixtures named: of a new one, or after a change that is meant to change them.
"""

import json
import multiprocessing
import os
import platform
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ssl_zoo.training.loop import train
from ssl_zoo.training.recipe import load_recipe
from tests.training.tiny_recipes import FIXTURES, METHODS, fixture_name, tiny, write_noise


STEPS = 50
STEPS_OF_TWO = 16  # when two processes train: enough for two kills


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_noise(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module", params=FIXTURES, ids=fixture_name)
def whole(request, images, tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    return _write(request.param, images, folder, STEPS), _Run(folder / "recipe.yaml", folder / "run").finish()


def test_the_losses_are_those_of_the_golden_trajectory(whole):
    (name, _), run = whole
    golden = json.loads(_golden(name).read_text())["losses"]
    losses = _losses(run)
    assert len(losses) == len(golden) == STEPS
    # Written to seven digits. Rounding grows from step to step: none to be seen at first, and no drift later
    # (CorInfoMax inverts covariances of as few images as directions, which multiplies it by a million each step).
    assert losses[:5] == pytest.approx(golden[:5], rel=1e-6, abs=1e-7)
    differences = [abs(ours - theirs) for ours, theirs in zip(losses, golden, strict=True)]
    size = max(map(abs, golden))
    assert max(differences) < (0.15 if name.startswith("corinfomax") else 0.02) * size
    assert sum(differences) / STEPS < (0.05 if name.startswith("corinfomax") else 0.005) * size


def test_killed_twice_is_never_killed(whole, tmp_path, chance):
    (_, path), expected = whole
    _compare(path, tmp_path, expected, moments=sorted(chance.sample(range(6, STEPS), 2)), processes=1)


# SeLa passes over all images and solves across processes, PAWS divides classes among them: the rest share their code.
_ALWAYS, _SLOW = ("sela", "paws"), pytest.mark.slow(seconds=15)


@pytest.mark.parametrize(
    "path",
    [path if fixture_name(path) in _ALWAYS else pytest.param(path, marks=_SLOW) for path in FIXTURES],
    ids=fixture_name,
)
def test_two_processes_killed_twice_are_never_killed(path, images, tmp_path, chance):
    _, recipe = _write(path, images, tmp_path, STEPS_OF_TWO)
    expected = _Run(recipe, tmp_path / "run", processes=2).finish()
    _compare(recipe, tmp_path, expected, moments=sorted(chance.sample(range(6, STEPS_OF_TWO), 2)), processes=2)
    states = [load_file(checkpoint / "model.safetensors") for checkpoint in _checkpoints(expected)]
    assert len(states) == 2  # the banks, tables and statistics below are those of both processes
    assert len({len(trace["sample_ids"]) for trace in _trace(expected, 1)}) == 1


def _compare(recipe, folder, expected, *, moments, processes):
    killed = folder / "killed"
    for moment in moments:
        _Run(recipe, killed, processes=processes).kill_at(moment)
        assert not (killed / "model").exists()
    _Run(recipe, killed, processes=processes).finish()
    for rank in range(processes):
        assert _trace(killed, rank) == _trace(expected, rank), f"killed at steps {moments}"
    assert _metrics(killed) == _metrics(expected), f"killed at steps {moments}"
    for ours, theirs in zip(_checkpoints(killed), _checkpoints(expected), strict=True):
        ours, theirs = (load_file(checkpoint / "model.safetensors") for checkpoint in (ours, theirs))
        assert ours.keys() == theirs.keys()
        assert [name for name, tensor in theirs.items() if not torch.equal(ours[name], tensor)] == []


class _Run:
    """A training run in one process or two that can be killed; it starts from a server that has imported all."""

    def __init__(self, recipe: Path, run: Path, *, processes: int = 1) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["ssl_zoo.training.loop", "transformers", "datasets", "tests.conftest"])
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.run, self.log = run, run.with_suffix(".log")
        self.processes = [
            context.Process(target=_train, args=(recipe, run, rank, processes, port)) for rank in range(processes)
        ]
        for process in self.processes:
            process.start()

    def finish(self) -> Path:
        for process in self.processes:
            process.join(200)
            assert process.exitcode == 0, self.log.read_text()[-3000:]
        return self.run

    def kill_at(self, step: int) -> None:
        trace, deadline = self.run / "trace-0.jsonl", time.monotonic() + 200
        while not (trace.exists() and len(trace.read_bytes().splitlines()) >= step):
            assert self.processes[0].is_alive(), self.log.read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.002)
        for process in self.processes:
            os.kill(process.pid, signal.SIGKILL)
        for process in self.processes:
            process.join(60)
            assert process.exitcode == -signal.SIGKILL


def _train(recipe: Path, run: Path, rank: int, processes: int, port: int) -> None:
    with run.with_suffix(".log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.environ |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    if processes > 1:
        os.environ |= {"WORLD_SIZE": str(processes), "RANK": str(rank), "LOCAL_RANK": str(rank)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        if sys.platform == "linux":
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    if processes == 1:
        # The processor's instructions decide how float32 is rounded, and a tiny batch norm multiplies that by a
        # million within ten steps: known trajectories are of float64. Two processes train in float32, as users do.
        torch.set_default_dtype(torch.float64)
    train(load_recipe(recipe, [f"train.output_dir={run}", f"train.num_processes={processes}"]))


def _write(path: Path, images: Path, folder: Path, steps: int) -> tuple[str, Path]:
    recipe = tiny(path, images=images, steps=steps)
    recipe.views.backend = "reference"  # the golden trajectories don't depend on how the views are made fast
    recipe.train.channels_last = False  # nor on the order in which a memory format adds numbers up
    recipe.save(folder / "recipe.yaml")
    return fixture_name(path), folder / "recipe.yaml"


def _trace(run: Path, rank: int) -> list[dict]:
    return [json.loads(line) for line in (run / f"trace-{rank}.jsonl").read_text().splitlines()]


def _losses(run: Path) -> list[float]:
    traced = [[float.fromhex(loss) for loss in line["losses"]] for line in _trace(run, 0)]
    return [sum(losses) / len(losses) for losses in traced]


def _metrics(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if "second" not in name} for line in lines]


def _checkpoints(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("step-*"))


def _golden(name: str) -> Path:
    """The file of a fixture's known losses."""
    return METHODS / f"{name}.losses.json"


def _write_golden(name: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _, recipe = _write(METHODS / f"{name}.yaml", write_noise(folder / "images"), folder, STEPS)
        losses = _losses(_Run(recipe, folder / "run").finish())
    made_with = {"torch": torch.__version__, "python": platform.python_version(), "machine": platform.machine()}
    text = json.dumps({"made_with": made_with, "losses": [float(f"{loss:.7g}") for loss in losses]}, indent=1)
    _golden(name).write_text(text + "\n")


if __name__ == "__main__":
    names = {fixture_name(path) for path in FIXTURES}
    if not sys.argv[1:] or set(sys.argv[1:]) - names:
        sys.exit(f"Name the fixtures whose trajectories are to be written, out of: {', '.join(sorted(names))}")
    for argument in sys.argv[1:]:
        _write_golden(argument)
