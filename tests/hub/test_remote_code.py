"""The modelling code as flat files: complete, and free of imports of the package."""

import ast
import re
from pathlib import Path

import pytest

from ssl_zoo.hub import remote_code
from ssl_zoo.hub.remote_code import flatten


def test_every_import_is_third_party_or_a_sibling() -> None:
    files = flatten(["ssl_zoo.models.mira.configuration_mira", "ssl_zoo.models.mira.modeling_mira"])
    assert {"configuration_mira.py", "modeling_mira.py", "nn_backbone.py", "functional_distributed.py"} <= set(files)
    for name, source in files.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("ssl_zoo") for alias in node.names), name
            elif isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("ssl_zoo"), name
                assert node.level == 0 or f"{node.module}.py" in files, (name, node.module)


def test_only_imports_change() -> None:
    for name, source in flatten(["ssl_zoo.models.mira.modeling_mira"]).items():
        header, _, rest = source.partition("\n")
        origin = Path(remote_code.__file__).parents[2] / header.removeprefix("# Made from ").split(":")[0]
        pairs = list(zip(origin.read_text().splitlines(), rest.splitlines(), strict=True))
        changed = [(old, new) for old, new in pairs if old != new]
        for old, new in changed:
            assert re.match(r"\s*from ssl_zoo\.[\w.]+ import ", old), (name, old)
            assert new.split(" import ")[1] == old.split(" import ")[1]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(remote_code, "_ROOT", tmp_path / "ssl_zoo")
    for name in ("nn/heads.py", "nn/__init__.py", "models/nn_heads.py"):
        (tmp_path / "ssl_zoo" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "ssl_zoo" / name).write_text("class Head: pass\n")
    return tmp_path / "ssl_zoo"


def test_imports_in_odd_places(package: Path) -> None:
    (package / "models" / "m.py").write_text(
        '"""from ssl_zoo.nn.heads import Head in a docstring stays."""\n'
        "from ssl_zoo.nn.heads import (\n    Head,\n)\n"
        "def f():\n    x = 1; from ssl_zoo.nn.heads import Head as H\n    return H, x\n"
    )
    source = flatten(["ssl_zoo.models.m"])["m.py"]
    assert source.count("from .nn_heads import") == 2
    assert source.count("from ssl_zoo.nn.heads import Head in a docstring") == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("import ssl_zoo.nn.heads", "from ssl_zoo.x.y import name"),
        ("from ssl_zoo import MiraModel", "from ssl_zoo.x.y import name"),
        ("from .heads import Head", "from ssl_zoo.x.y import name"),
        ("from ssl_zoo.nn import heads", "the module itself"),
        ("from ssl_zoo.nn.missing import Head", "no module 'ssl_zoo.nn.missing'"),
        (
            "from ssl_zoo.nn.heads import Head\nfrom ssl_zoo.models.nn_heads import Head as H",
            "both become nn_heads.py",
        ),
    ],
)
def test_refused_imports(package: Path, line: str, words: str) -> None:
    (package / "models" / "m.py").write_text(line + "\n")
    with pytest.raises(ValueError, match=re.escape(words)):
        flatten(["ssl_zoo.models.m"])
