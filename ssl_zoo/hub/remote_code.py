"""The package's modelling code as files in one folder, which transformers loads with `trust_remote_code=True`.

Transformers copies remote code file by file into one folder, so a module can only be imported as `.name`. Every module
of `ssl_zoo` that the method imports becomes one file; only its imports are rewritten. The files need torch, timm and
transformers, not `ssl_zoo`.
"""

import ast
import re
from pathlib import Path


__all__ = ["PACKAGE", "flat_name", "flatten"]


PACKAGE = "ssl_zoo"
_ROOT = Path(__file__).parents[1]


def flatten(entry_modules: list[str]) -> dict[str, str]:
    """Collect modules and all that they import from the package, directly or not, as flat files.

    Args:
        entry_modules (`list[str]`): Dotted names, such as `"ssl_zoo.models.mira.modeling_mira"`.

    Returns:
        `dict[str, str]`: File name -> source, which imports from these files and third parties only.

    Raises:
        ValueError: for an import that can't be rewritten (the message names the place and a form that can), and for
            two modules that would become the same file.
    """
    files: dict[str, str] = {}
    origin: dict[str, str] = {}
    waiting = list(entry_modules)
    while waiting:
        module = waiting.pop()
        name = flat_name(module)
        if origin.setdefault(name, module) != module:
            raise ValueError(f"'{origin[name]}' and '{module}' would both become {name}.py: rename one of them")
        if f"{name}.py" in files:
            continue
        files[f"{name}.py"], needed = _rewrite(module)
        waiting += needed
    return dict(sorted(files.items()))


def flat_name(module: str) -> str:
    """Name a module's flat file: the path below the package, without `models.<method>.` (`nn.heads` -> `nn_heads`)."""
    parts = module.split(".")[1:]
    if parts[0] == "models":
        parts = parts[-1:]
    return "_".join(parts)


def _source_file(module: str) -> Path | None:
    path = _ROOT.joinpath(*module.split(".")[1:])
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _rewrite(module: str) -> tuple[str, list[str]]:
    file = _source_file(module)
    if file is None:
        raise ValueError(f"there is no module '{module}' in {PACKAGE}")
    source = file.read_text(encoding="utf-8")
    lines = source.splitlines(keepends=True)
    needed = []
    for node in ast.walk(ast.parse(source)):
        imported = _imports_of_package(node)
        if imported is None:
            continue
        place = f"{file.relative_to(_ROOT.parent)}, line {node.lineno}"  # type: ignore[attr-defined]
        if not isinstance(node, ast.ImportFrom) or node.level or imported == PACKAGE:
            raise ValueError(
                f"{place}: remote code can't import '{imported}' this way: write `from {PACKAGE}.x.y import name`"
            )
        for alias in node.names:
            if _source_file(f"{imported}.{alias.name}") is not None:
                raise ValueError(
                    f"{place}: import names out of '{imported}.{alias.name}' instead of the module itself"
                )
        pattern = rf"(from\s+){re.escape(imported)}(\s+import)"
        line = lines[node.lineno - 1]
        # ast counts columns in bytes, but what precedes an import statement on its line is ASCII.
        head, tail = line[: node.col_offset], line[node.col_offset :]
        lines[node.lineno - 1] = head + re.sub(pattern, rf"\1.{flat_name(imported)}\2", tail, count=1)
        needed.append(imported)
    return f"# Made from {file.relative_to(_ROOT.parent)}: change it there.\n" + "".join(lines), needed


def _imports_of_package(node: ast.AST) -> str | None:
    """Return the module of `ssl_zoo` that a node imports, if any; a relative one with its dots."""
    if isinstance(node, ast.ImportFrom) and node.level:
        return "." * node.level + (node.module or "")
    names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    return next((name for name in names if name.split(".")[0] == PACKAGE), None)
