"""The layers import downwards only, files have telling names, and every method has all its parts."""

import ast
import re
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from ssl_zoo.models.registry import find_method, method_names


ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ssl_zoo"
MODULES = sorted(path.relative_to(ROOT) for path in PACKAGE.rglob("*.py"))

# Layer (longest prefix wins) -> modules of ours that it may import, besides its own layer. A final dot = all in it.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "ssl_zoo": ("ssl_zoo.models.registry", "ssl_zoo.zoo.entries"),
    "ssl_zoo.provenance": (),
    "ssl_zoo.atomic": (),
    "ssl_zoo.nearest": (),
    "ssl_zoo.settings": (),
    "ssl_zoo.protocol": ("ssl_zoo.settings.",),
    "ssl_zoo.functional": (),
    "ssl_zoo.nn": ("ssl_zoo.functional.",),
    "ssl_zoo.models": ("ssl_zoo.functional.", "ssl_zoo.nn."),
    "ssl_zoo.models.registry": (),
    "ssl_zoo.data": ("ssl_zoo.settings.declare",),
    "ssl_zoo.loading": ("ssl_zoo.models.registry", "ssl_zoo.data.views"),
    "ssl_zoo.features": ("ssl_zoo.functional.", "ssl_zoo.data."),
    "ssl_zoo.labels": (
        "ssl_zoo.functional.",
        "ssl_zoo.models.registry",
        "ssl_zoo.data.",
        "ssl_zoo.features.",
        "ssl_zoo.settings.compare",
        "ssl_zoo.provenance",
    ),
    "ssl_zoo.evaluation": (
        "ssl_zoo.functional.",
        "ssl_zoo.models.",
        "ssl_zoo.data.",
        "ssl_zoo.loading.",
        "ssl_zoo.features.",
        "ssl_zoo.labels.assign",
        "ssl_zoo.protocol",
        "ssl_zoo.provenance",
        "ssl_zoo.settings.",
    ),
    "ssl_zoo.training": (
        "ssl_zoo.functional.",
        "ssl_zoo.nn.",
        "ssl_zoo.models.",
        "ssl_zoo.data.",
        "ssl_zoo.loading.view",
        "ssl_zoo.features.",
        "ssl_zoo.evaluation.",
        "ssl_zoo.protocol",
        "ssl_zoo.provenance",
        "ssl_zoo.settings.",
    ),
    "ssl_zoo.zoo": (),
    "ssl_zoo.hub": (
        "ssl_zoo.nn.backbone",
        "ssl_zoo.models.",
        "ssl_zoo.protocol",
        "ssl_zoo.training.recipe",
        "ssl_zoo.provenance",
    ),
    "ssl_zoo.conversion": (
        "ssl_zoo.nn.backbone",
        "ssl_zoo.models.",
        "ssl_zoo.data.label_files",
        "ssl_zoo.hub.export",
        "ssl_zoo.zoo.",
        "ssl_zoo.provenance",
    ),
    "ssl_zoo.explore": (
        "ssl_zoo.functional.",
        "ssl_zoo.models.",
        "ssl_zoo.data.",
        "ssl_zoo.loading.",
        "ssl_zoo.features.",
        "ssl_zoo.labels.",
        "ssl_zoo.evaluation.",
        "ssl_zoo.zoo.",
    ),
    "ssl_zoo.detection": (
        "ssl_zoo.functional.",
        "ssl_zoo.nn.",
        "ssl_zoo.models.",
        "ssl_zoo.data.",
        "ssl_zoo.loading.models",
        "ssl_zoo.evaluation.results",
        *(f"ssl_zoo.training.{name}" for name in ("checkpoint", "log", "stop")),
        "ssl_zoo.protocol",
        "ssl_zoo.provenance",
        "ssl_zoo.settings.",
    ),
}
# Modules of the stdlib alone that every layer but the functions may import.
LOWEST = ("ssl_zoo.atomic", "ssl_zoo.nearest")
# A method may import these, and itself, but no other method.
MODELS_BASE = tuple(f"ssl_zoo.models.{path.stem}" for path in (PACKAGE / "models").glob("[!_]*.py"))

# Layer -> the third-party packages that it may import.
_COMMON = ("torch", "numpy")
THIRD_PARTY: dict[str, tuple[str, ...]] = {
    "ssl_zoo": (),
    "ssl_zoo.provenance": (),
    "ssl_zoo.atomic": (),
    "ssl_zoo.nearest": (),
    "ssl_zoo.settings": ("yaml",),
    "ssl_zoo.protocol": (),
    "ssl_zoo.functional": ("torch",),
    "ssl_zoo.nn": ("torch", "timm"),
    "ssl_zoo.models": ("torch", "timm", "transformers", "huggingface_hub", "safetensors"),
    "ssl_zoo.models.registry": ("transformers",),
    "ssl_zoo.models.cmsf": ("torch", "transformers", "huggingface_hub", "sklearn"),
    "ssl_zoo.data": (
        *_COMMON,
        *("datasets", "torchvision", "PIL", "pyarrow", "fsspec", "filelock", "huggingface_hub", "sklearn", "tqdm"),
    ),
    "ssl_zoo.data.augment_fast": (*_COMMON, "cv2", "PIL"),
    "ssl_zoo.data.decode_fast": (*_COMMON, "simplejpeg", "PIL"),
    "ssl_zoo.loading": ("torch", "timm", "transformers", "huggingface_hub"),
    "ssl_zoo.features": (*_COMMON, "datasets", "filelock", "PIL", "tqdm"),
    "ssl_zoo.labels": (*_COMMON, "datasets", "huggingface_hub", "PIL", "tqdm", "transformers"),
    "ssl_zoo.evaluation": (
        *_COMMON,
        *("accelerate", "datasets", "evaluate", "transformers"),
        *("sklearn", "scipy", "matplotlib", "PIL", "tqdm", "timm"),
    ),
    "ssl_zoo.training": (*_COMMON, "accelerate", "timm", "huggingface_hub", "safetensors", "tqdm"),
    "ssl_zoo.zoo": (),
    "ssl_zoo.hub": (*_COMMON, "huggingface_hub", "safetensors", "timm", "transformers", "yaml"),
    "ssl_zoo.conversion": (*_COMMON, "huggingface_hub", "pyarrow", "safetensors"),
    "ssl_zoo.explore": (
        *_COMMON,
        *(
            "datasets",
            "huggingface_hub",
            "openTSNE",
            "pacmap",
            "PIL",
            "pyarrow",
            "scipy",
            "sklearn",
            "timm",
            "transformers",
            "umap",
            "yaml",
        ),
    ),
    "ssl_zoo.detection": (
        *_COMMON,
        *("accelerate", "datasets", "matplotlib", "PIL", "pycocotools", "timm", "torchvision", "tqdm"),
    ),
}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "misc", "common"}


def layer_of(module: str, table: dict[str, tuple[str, ...]]) -> str:
    """The most specific layer that a module belongs to; the package's own files stand alone."""
    layers = [layer for layer in table if module == layer or (layer != "ssl_zoo" and module.startswith(f"{layer}."))]
    assert layers, f"{module} belongs to no layer: add its folder to the tables of {Path(__file__).name}"
    return max(layers, key=len)


def module_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every imported module with its line; `from a import b` counts as `a.b`, which may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


def problems_of(module: str, source: str) -> list[str]:
    """What a module imports against the rules."""
    layer = layer_of(module, MAY_IMPORT)
    found = []
    for name, line in imports(ast.parse(source)):
        top = name.partition(".")[0]
        if name.startswith("."):
            found.append(f"line {line}: relative import {name}")
        elif top == "ssl_zoo":
            if not may_import(module, layer, name):
                found.append(f"line {line}: {layer} may not import {name}")
        elif top not in sys.stdlib_module_names:
            allowed = THIRD_PARTY[layer_of(module, THIRD_PARTY)]
            if top not in allowed:
                found.append(f"line {line}: {layer} may not import {top}, only {', '.join(allowed) or 'the stdlib'}")
    return found


def may_import(module: str, layer: str, name: str) -> bool:
    parts = module.split(".")
    if name.startswith(tuple(f"{lowest}." for lowest in LOWEST)):
        return layer not in ("ssl_zoo", "ssl_zoo.functional", *LOWEST)
    if layer == "ssl_zoo.models":
        if len(parts) > 3 and name.startswith(".".join(parts[:3]) + "."):
            return True
        if name.startswith("ssl_zoo.models."):
            return name.startswith(MODELS_BASE)
    elif layer not in ("ssl_zoo", "ssl_zoo.models.registry") and name.startswith(f"{layer}."):
        return True
    return any(
        name.startswith(allowed) if allowed.endswith(".") else name == allowed or name.startswith(f"{allowed}.")
        for allowed in MAY_IMPORT[layer]
    )


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_module_imports_downwards_only(path: Path) -> None:
    assert problems_of(module_name(path), (ROOT / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("ssl_zoo.functional.assignment", "import transformers"),
        ("ssl_zoo.functional.assignment", "from ssl_zoo.nn.heads import Projector"),
        ("ssl_zoo.nn.heads", "from accelerate import Accelerator"),
        ("ssl_zoo.nn.heads", "from ssl_zoo import nn"),
        ("ssl_zoo.models.mira.modeling_mira", "from ssl_zoo.models.msf.modeling_msf import MsfModel"),
        ("ssl_zoo.models.mira.modeling_mira", "from ssl_zoo.training.recipe import Recipe"),
        ("ssl_zoo.models.mira.modeling_mira", "from ssl_zoo.data.source import open_source"),
        ("ssl_zoo.models.mira.modeling_mira", "from . import loss_mira"),
        ("ssl_zoo.models.modeling_base", "from ssl_zoo.models.mira.modeling_mira import MiraModel"),
        ("ssl_zoo.data.source", "def f():\n    from ssl_zoo.models.mira import MiraModel"),
        ("ssl_zoo.evaluation.frozen.knn", "import ssl_zoo.training.loop"),
        ("ssl_zoo.training.loop", "import gradio"),
        ("ssl_zoo.training.loop", "from ssl_zoo.hub.card import render"),
        ("ssl_zoo.hub.card", "from ssl_zoo.training.loop import train"),
        ("ssl_zoo.detection.loop", "from ssl_zoo.training.loop import train"),
        ("ssl_zoo.training.loop", "from ssl_zoo.detection.loop import train_detector"),
        ("ssl_zoo.provenance", "import torch"),
        ("ssl_zoo.atomic", "import torch"),
        ("ssl_zoo.nearest", "from ssl_zoo.atomic import replace_atomically"),
        ("ssl_zoo.functional.assignment", "from ssl_zoo.nearest import nearest"),
        ("ssl_zoo.zoo.entries", "import yaml"),
        ("ssl_zoo", "from ssl_zoo.models.mira import MiraModel"),
        ("ssl_zoo", "import torch"),
    ],
)
def test_the_rules_catch(module: str, statement: str) -> None:
    assert len(problems_of(module, statement)) == 1


def import_cycle(sources: dict[str, str]) -> list[str]:
    """Modules that import each other in a circle, imports inside functions included; empty if none do.

    A protocol declares the settings that its measuring code takes, and imports that code only when it measures.
    """
    graph: dict[str, set[str]] = {}
    for module, source in sources.items():
        tree = ast.parse(source)
        if module.startswith("ssl_zoo.evaluation.protocols."):
            tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = [name for name, _ in imports(tree)]
        graph[module] = {name if name in sources else name.rpartition(".")[0] for name in names} & sources.keys()
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_import_each_other() -> None:
    sources = {module_name(path): (ROOT / path).read_text(encoding="utf-8") for path in MODULES}
    assert import_cycle(sources) == []
    planted = "def later():\n    from ssl_zoo.data.locate import locate"
    assert set(import_cycle(sources | {"ssl_zoo.data.embedded": planted})) == {
        "ssl_zoo.data.embedded",
        "ssl_zoo.data.locate",
    }


def unlisted_names(source: str) -> list[str]:
    """What is wrong with the `__all__` of a module: its place, names that don't exist, public names that it lacks.

    Loggers, type variables and aliases of types needn't be in it.
    """
    public, defined, listed, place = set(), set(), None, 0
    statements = [node for node in ast.parse(source).body if not isinstance(node, ast.Expr)]
    for number, node in enumerate(statements):
        if isinstance(node, ast.Import | ast.ImportFrom):
            defined |= {alias.asname or alias.name for alias in node.names}
            place = number + 1
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            place = number + 1
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            public.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
            if names == {"__all__"}:
                listed, at = set(ast.literal_eval(node.value)), number
            elif isinstance(node.value, ast.Subscript | ast.BinOp) or "getLogger" in ast.unparse(node.value):
                defined |= names
            else:
                public |= names if "TypeVar" not in ast.unparse(node.value) else set()
    public = {name for name in public if not name.startswith("_")}
    if listed is None:
        return ["no `__all__`"] if public else []
    found = [] if at == place else ["`__all__` isn't the first thing after the imports"]
    found += [f"`__all__` has {name}, which isn't there" for name in sorted(listed - public - defined)]
    return found + [f"`__all__` lacks {name}" for name in sorted(public - listed)]


# The package and each method show classes that they import at the first use: test_import.py has their names.
_LAZY = {PACKAGE / "__init__.py", *(PACKAGE / "models" / method / "__init__.py" for method in method_names())}


@pytest.mark.parametrize("path", [path for path in MODULES if ROOT / path not in _LAZY], ids=str)
def test_a_module_lists_its_public_names(path: Path) -> None:
    assert unlisted_names((ROOT / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("def run(): ...", ["no `__all__`"]),
        ('import os\n__all__ = ["LIMIT"]\nLIMIT = 1\nclass Run: ...', ["`__all__` lacks Run"]),
        ('__all__ = ["run", "stop"]\ndef run(): ...', ["`__all__` has stop, which isn't there"]),
        ('def run(): ...\n__all__ = ["run"]', ["`__all__` isn't the first thing after the imports"]),
        ('from os import path\n__all__ = ["path"]\nFloats = list[float]\n_LIMIT = 1', []),
    ],
)
def test_a_wrong_list_of_names_is_found(source: str, problem: list[str]) -> None:
    assert unlisted_names(source) == problem


@pytest.mark.parametrize("folder", ["ssl_zoo", "recipes", "tests"])
def test_no_file_has_a_name_that_says_nothing(folder: str) -> None:
    paths = [path for path in (ROOT / folder).rglob("*") if path.suffix == ".py" or path.is_dir()]
    assert not [str(path.relative_to(ROOT)) for path in paths if path.stem in FORBIDDEN_NAMES]


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_module_prints_nothing_and_parses_no_arguments(path: Path) -> None:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    names = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
    assert "print" not in names
    # Authors save an `argparse.Namespace` in their checkpoints: to know one is no parsing.
    parsers = {name for name, _ in imports(tree) if name.partition(".")[0] == "argparse"}
    assert parsers <= {"argparse.Namespace"}


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in MODULES
        if path.parts[1] in ("functional", "nn", "models", "nearest.py") and path.name != "registry.py"
    ],
    ids=str,
)
def test_modelling_code_can_be_exported(path: Path) -> None:
    """The exporter rewrites `from ssl_zoo.a.b import X` at the top of a module, and no other form."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not [alias.name for alias in node.names if alias.name.partition(".")[0] == "ssl_zoo"]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ssl_zoo"):
            assert id(node) in top, f"line {node.lineno}: import inside a function or class"


def full_stops(source: str) -> list[int]:
    """Lines of the errors whose message, as far as it is written there, ends with a full stop."""

    def ending(node: ast.AST) -> str:
        if isinstance(node, ast.JoinedStr) and node.values:
            return ending(node.values[-1])
        if isinstance(node, ast.BinOp):
            return ending(node.right)
        return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""

    raised = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Raise)]
    messages = [(node.lineno, node.exc.args[0]) for node in raised if isinstance(node.exc, ast.Call) and node.exc.args]
    return [line for line, text in messages if ending(text).endswith(".") and not ending(text).endswith("...")]


@pytest.mark.parametrize("folder", ["ssl_zoo", "recipes", "space", "results", "benchmarks", "model_cards"])
def test_error_messages_end_without_a_full_stop(folder: str) -> None:
    """One sentence has none, and of several the last has none."""
    paths = sorted((ROOT / folder).rglob("*.py"))
    found = {str(path.relative_to(ROOT)): full_stops(path.read_text(encoding="utf-8")) for path in paths}
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_full_stops_are_found() -> None:
    lines = ["raise ValueError('Stop.')", "raise ValueError('Go on. Don\\'t stop')", "raise ValueError(f'{1} or ...')"]
    assert full_stops("\n".join([*lines, "raise ValueError(f'one {1}' + ' two.')", "raise ValueError"])) == [1, 4]


def missing_parts(method: str, root: Path = ROOT) -> list[str]:
    """What a method's folder lacks, by path."""
    folder = root / "ssl_zoo" / "models" / method
    needed = [folder / "__init__.py"]
    needed += [folder / f"{part}_{method}.py" for part in ("configuration", "loss", "modeling")]
    missing = [str(path.relative_to(root)) for path in needed if not path.is_file()]
    if not list((root / "recipes" / method).glob("*.yaml")):
        missing.append(f"recipes/{method}/<dataset>_<backbone>_<epochs>ep.yaml")
    fixtures = [root / "tests" / "methods" / f"{method}.yaml"]
    fixtures += sorted(fixtures[0].parent.glob(f"{method}-*.yaml"))
    needed = [*fixtures, *(path.with_suffix(".losses.json") for path in fixtures)]
    needed.append(root / "docs" / "methods" / f"{method}.md")
    return missing + [str(path.relative_to(root)) for path in needed if not path.is_file()]


@pytest.mark.parametrize("method", method_names())
def test_a_method_has_all_its_parts(method: str) -> None:
    assert missing_parts(method) == []


def test_what_a_new_method_lacks_is_listed_by_path(tmp_path: Path) -> None:
    (tmp_path / "ssl_zoo" / "models" / "foo").mkdir(parents=True)
    assert missing_parts("foo", tmp_path) == [
        "ssl_zoo/models/foo/__init__.py",
        "ssl_zoo/models/foo/configuration_foo.py",
        "ssl_zoo/models/foo/loss_foo.py",
        "ssl_zoo/models/foo/modeling_foo.py",
        "recipes/foo/<dataset>_<backbone>_<epochs>ep.yaml",
        "tests/methods/foo.yaml",
        "tests/methods/foo.losses.json",
        "docs/methods/foo.md",
    ]


def test_every_fixture_is_a_methods_and_every_known_trajectory_a_fixtures() -> None:
    fixtures = {path.stem: path for path in (ROOT / "tests" / "methods").glob("*.yaml")}
    known = {path.name.removesuffix(".losses.json") for path in (ROOT / "tests" / "methods").glob("*.json")}
    assert known <= set(fixtures)
    for name, path in fixtures.items():
        assert name.partition("-")[0] in method_names(), f"tests/methods/{path.name}: no method has this name"
        assert f"method: {name.partition('-')[0]}" in path.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("method", method_names())
def test_a_methods_names_follow_the_folder(method: str) -> None:
    """Folder = model_type; the classes are <Method>Config, <Method>Model, <Method>ForPreTraining, ..."""
    import ssl_zoo

    prefix = method.title().replace("_", "")
    for ending in ("Config", "Model", "ForPreTraining", "ForImageClassification", "PreTrainingOutput"):
        assert getattr(ssl_zoo, prefix + ending).__name__ == prefix + ending
    assert getattr(ssl_zoo, f"{prefix}Config").model_type == method


@pytest.mark.parametrize("method", method_names())
def test_a_method_declares_what_cards_say_of_it(method: str) -> None:
    declared = find_method(method)
    assert declared.name
    assert declared.title
    assert re.fullmatch(r"https://huggingface\.co/papers/\d{4}\.\d{5}", declared.paper)


def test_files_stay_readable() -> None:
    """One screen per idea: a file of more than 300 lines should be two."""
    long = {str(path): len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {path: lines for path, lines in long.items() if lines > 300} == {}
