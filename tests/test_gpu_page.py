"""docs/gpu.md names files and tests that exist, and every path of its table says what was proven and what wasn't."""

import ast
import re
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file


ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")


def missing(text):
    """The files and tests between backticks that aren't there."""
    found = []
    for name in re.findall(r"`((?:ssl_zoo|tests|recipes|benchmarks|docs)/[\w/.-]+(?:::\w+)?)`", text):
        file, _, test = name.partition("::")
        if not (ROOT / file).exists():
            found.append(name)
        elif test:
            tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            if test not in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}:
                found.append(name)
    return found


def test_all_files_and_tests_it_names_exist():
    assert len(re.findall(r"`tests/[\w/.]+::\w+`", TEXT)) > 10
    assert missing(TEXT) == []


@pytest.mark.parametrize("name", ["ssl_zoo/nothing.py", "tests/test_gpu_page.py::test_nothing"])
def test_what_does_not_exist_is_found(name):
    assert missing(f"see `{name}` and `tests/test_gpu_page.py`") == [name]


def test_every_row_says_where_what_was_proven_and_what_was_not():
    rows = [line.strip("| \n").split(" | ") for line in TEXT.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 10
    for path, where, proven, not_proven in rows:
        assert "`" in where, path
        assert "tests/" in proven, path
        assert len(not_proven) > 5, path


def test_the_configuration_for_several_machines_is_one_that_accelerate_reads():
    path = ROOT / "recipes" / "accelerate" / "multi_node.yaml"
    config = load_config_from_file(str(path))  # refuses unknown keys
    assert (config.num_machines, config.num_processes, config.rdzv_backend) == (2, 16, "static")
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["main_process_port"] != 0  # each would choose its own
