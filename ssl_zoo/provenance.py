"""Commit, versions and command of a result. Standard library only; nothing names the machine."""

import os
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


__all__ = ["command", "commit", "versions"]

_PACKAGE = Path(__file__).parent
_DISTRIBUTIONS = (
    "ssl_zoo",
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "accelerate",
    "datasets",
    "huggingface_hub",
    "safetensors",
    "scikit-learn",
    "scipy",
    "pycocotools",
    "numpy",
    "pillow",
)


def commit() -> str | None:
    """Commit of the checkout that this package runs from, with `+dirty` when tracked files have been changed.

    Returns:
        `str` or `None`: 40 hexadecimal digits; `None` when the package isn't run from its own git checkout.
    """
    # A package installed into an environment inside someone else's checkout isn't tracked there.
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    head, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    return f"{head}+dirty" if head and changes else head


def _git(*arguments: str) -> str | None:
    # In a hook or a rebase git's own variables point elsewhere.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=_PACKAGE, env=environment, capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a number, those that are installed."""
    installed = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in _DISTRIBUTIONS:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed


def command(arguments: list[str] | None = None, *, num_processes: int | None = None) -> str:
    """What to type to run this process again, with paths below the working folder and no others.

    Args:
        arguments (`list[str]`, *optional*): Script and arguments; this process's own by default.
        num_processes (`int`, *optional*): Processes that run it together; `WORLD_SIZE` or 1 by default.

    Returns:
        `str`: Such as `python recipes/evaluate.py runs/first --k 20`.
    """
    arguments = sys.argv if arguments is None else arguments
    processes = int(os.environ.get("WORLD_SIZE", "1")) if num_processes is None else num_processes
    launcher = ["python"] if processes == 1 else ["torchrun", "--nproc_per_node", str(processes)]
    return shlex.join([*launcher, *(_without_machine(argument) for argument in arguments)])


def _without_machine(argument: str) -> str:
    """Make an absolute path relative to the checkout or the working folder; of any other keep the last part."""
    name, equals, value = argument.partition("=")
    prefix, path = (f"{name}=", value) if equals else ("", argument)
    if not os.path.isabs(path) and not path.startswith(("~", "..")):
        return argument
    absolute = Path(os.path.abspath(os.path.expanduser(path)))
    for folder in (Path.cwd(), _PACKAGE.parent):
        if absolute.is_relative_to(folder):
            return f"{prefix}{absolute.relative_to(folder).as_posix()}"
    return f"{prefix}{absolute.name}"
