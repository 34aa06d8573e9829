"""Every command and every Python block in the README works: it is run, or a dry run of it.

A command that matches nothing in `CHECKS` fails: add there how it is tested.
"""

import functools
import re
import shlex
import subprocess
import textwrap
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ssl_zoo.hub.export import export_repo
from ssl_zoo.training.build import build_model
from ssl_zoo.training.plan import derive_plan
from ssl_zoo.training.recipe import load_recipe
from tests import forked


ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"


def blocks(language: str, text: str | None = None) -> list[str]:
    """The fenced blocks of one language, in lists too."""
    text = README.read_text(encoding="utf-8") if text is None else text
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(block) for _, block in found]


def commands(text: str | None = None) -> list[str]:
    """The commands of all shell blocks (lines joined, comments and prompts removed) and between backticks."""
    text = README.read_text(encoding="utf-8") if text is None else text
    found = re.findall(r"`((?:accelerate|make|pip|python|tensorboard) [^`\n]+)`", text)
    for language in ("bash", "sh", "shell", "console"):
        for block in blocks(language, text):
            lines = (line.removeprefix("$ ") for line in block.replace("\\\n", " ").splitlines())
            found += [" ".join(shlex.split(line, comments=True)) for line in lines]
    return sorted({command for command in found if command})


def run(*words: str) -> str:
    """Run a script of ours or a command; return what it prints."""
    if words[0].endswith(".py"):
        result = forked.run(*words)
    else:
        result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=250)
    assert result.returncode == 0, f"{shlex.join(words)}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def check_make(match: re.Match[str]) -> None:
    """`make -n` reads the Makefile and resolves the target; `make help` lists it."""
    for target in match["targets"].split():
        assert "=" in target or f"make {target} " in run("make", "help"), f"`make help` doesn't list {target}"
    run("make", "-n", *match["targets"].split())


def check_train(match: re.Match[str]) -> None:
    """`--help` and `--dry-run` are run; of the others the recipe and its overrides are read."""
    words = shlex.split(match["words"])
    files = [word for word in words if word.endswith(".yaml") and "=" not in word]
    overrides = [word for word in words if "=" in word]
    assert len(files) <= 1
    assert set(words) <= {*files, *overrides, "--dry-run", "--help"}
    if "--help" in words or "--dry-run" in words:
        assert "global_batch_size" in run("recipes/train.py", *words)
    else:
        derive_plan(
            load_recipe(ROOT / (files[0] if files else "recipes/mira/embedded.yaml"), overrides),
            num_rows=60000,
            num_processes=2 if "2_processes" in (match["config"] or "") else 1,
        )


def check_other_recipe(match: re.Match[str]) -> None:
    """The options exist. What the scripts do is tested in tests/evaluation and tests/hub."""
    text = help_of(match["script"])
    for word in shlex.split(match["words"]):
        option = word.partition("=")[0]
        assert not option.startswith("-") or option in text, f"{match['script']} has no option {option}"


@functools.cache
def help_of(script: str) -> str:
    return run(script, "--help")


def check_install(match: re.Match[str]) -> None:
    """The extras exist."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra in re.findall(r"\w+", match["extras"] or ""):
        assert extra in project["optional-dependencies"]


def check_activate(match: re.Match[str]) -> None:
    """The environment that `make` sets up is the one that is activated."""
    assert f"VENV := {match['folder']}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")


def nothing_to_check(match: re.Match[str]) -> None:
    """Needs the network or the user's account."""


LAUNCH = r"accelerate launch (?:--config_file (?P<config>\S+) )?(?:--num_processes \d+ )?"
CHECKS: dict[str, Callable[[re.Match[str]], None]] = {
    r"make (?P<targets>[\w =.-]+)": check_make,
    LAUNCH + r"recipes/train\.py(?P<words>.*)": check_train,
    LAUNCH + r"(?P<script>recipes/(?:evaluate|label|detect)\.py)(?P<words>.*)": check_other_recipe,
    r"python (?P<script>(?:recipes/(?:publish|evaluate|convert)|results/(?:record|cifar10_table))\.py)(?P<words>.*)": (
        check_other_recipe
    ),
    r"python (?P<script>space/app\.py)(?P<words>.*)": check_other_recipe,
    r"pip install (?:-e )?(?:\.|ssl_zoo)(?:\[(?P<extras>[\w,]+)\])?": check_install,
    r"(?:source|\.) (?P<folder>[\w.]+)/bin/activate": check_activate,
    r"tensorboard --logdir \S+": nothing_to_check,
    r"git clone \S+": nothing_to_check,
    r"cd \S+": nothing_to_check,
    r"hf auth login": nothing_to_check,
}


def check(command: str) -> None:
    matches = [(match, how) for pattern, how in CHECKS.items() if (match := re.fullmatch(pattern, command))]
    assert len(matches) == 1, (
        f"`{command}` matches {len(matches)} entries of CHECKS in {Path(__file__).name}, wanted 1"
    )
    match, how = matches[0]
    config = match.groupdict().get("config")
    assert config is None or (ROOT / config).is_file(), f"there is no {config}"
    how(match)


@pytest.mark.parametrize("command", commands())
def test_a_command_works(command: str) -> None:
    check(command)


def test_the_two_commands_are_there() -> None:
    assert {"make quickstart", "make test"} <= set(commands())
    assert "make --no-print-directory test\n" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `recipes/publish.py` would upload of a tiny model."""
    folder = tmp_path_factory.mktemp("readme")
    tiny = ["model.model_args={layers: [1, 1, 1, 1], channels: [8, 8, 8, 8]}", "model.projector_hidden_features=[8]"]
    recipe = load_recipe(ROOT / "recipes" / "mira" / "embedded.yaml", tiny)
    build_model(recipe).save_pretrained(folder / "run" / "model")
    recipe.save(folder / "run" / "recipe.yaml")
    export_repo(folder / "run", folder / "repo")
    return folder / "repo"


@pytest.mark.parametrize("block", blocks("python"))
def test_a_python_block_runs(block: str, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every repository's name replaced by the folder of a tiny exported model."""
    Image.new("RGB", (64, 64), "red").save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    code = re.sub(r"""(["'])hf-hub:[\w-]+/[\w.-]+\1""", repr(f"local-dir:{exported}"), block)
    code = re.sub(r"""(["'])[\w-]+/[\w.-]+\1""", repr(str(exported)), code)
    assert code != block or "list_models" in block, "names no repository"
    exec(compile(code, "README.md", "exec"), {})


def test_what_the_readme_links_to_is_there() -> None:
    text = README.read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", text)
    assert not [target for target in targets if not (ROOT / target).exists()]


@pytest.mark.parametrize(
    "command",
    [
        "make nothing",
        "accelerate launch recipes/train.py train.epoch=1",
        "accelerate launch --config_file recipes/accelerate/none.yaml recipes/train.py",
        "accelerate launch recipes/train.py recipes/mira/none.yaml",
        "pip install -e .[all]",
        "source venv/bin/activate",
        "rm -rf runs",
    ],
)
def test_a_command_that_does_not_work_is_caught(command: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        check(command)


def test_commands_are_found_as_written() -> None:
    text = "x `make one`\n```bash\n$ make test   # all\n\na \\\n  b\n# only words\n```\n"
    text += "- x\n  ```python\n  no = 1\n  ```\n"
    assert commands(text) == ["a b", "make one", "make test"]
    assert blocks("python", text) == ["no = 1\n"]
