"""The pages: one per method, links to the right lines, and an up-to-date table of results."""

import re
import sys
from pathlib import Path

import pytest

from ssl_zoo.models.registry import method_names


ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"])
sys.path[:0] = [str(ROOT / "docs"), str(ROOT / "results")]
from number_links import renumber  # noqa: E402
from record import read_page  # noqa: E402


@pytest.mark.parametrize("method", method_names())
def test_every_method_has_a_page(method):
    text = (ROOT / "docs" / "methods" / f"{method}.md").read_text(encoding="utf-8")
    assert "huggingface.co/papers/" in text
    assert f"recipes/{method}/" in text
    links = re.findall(r"\[`[\w.]+`\]\([^)]+\.py#L\d+\)", text)
    assert len(links) >= 3, "link to the lines of the algorithm"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_into_the_code_name_the_right_line(page):
    assert renumber(page) == page.read_text(encoding="utf-8"), "run: python docs/number_links.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    targets = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [target for target in targets if target and not (page.parent / target).exists()] == []


def test_a_wrong_link_is_found(tmp_path):
    (tmp_path / "code.py").write_text("x = 1\n\n\ndef solve():\n    pass\n")
    page = tmp_path / "page.md"
    page.write_text("[`solve`](code.py#L1)")
    assert renumber(page) == "[`solve`](code.py#L4)"
    page.write_text("[`sovle`](code.py#L1)")
    with pytest.raises(ValueError, match="doesn't define `sovle`"):
        renumber(page)


def test_the_table_of_results_is_that_of_the_results_files():
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert page == read_page()[0], "run: python results/record.py"


def test_every_results_file_has_its_recipe_which_names_it():
    files = {str(file.relative_to(ROOT)) for file in (ROOT / "results").glob("*/*.jsonl")}
    named = {}
    for recipe in (ROOT / "recipes").glob("*/*.yaml"):
        for file in re.findall(r"^# Results: +(\S+)$", recipe.read_text(encoding="utf-8"), flags=re.MULTILINE):
            named[file] = f"results/{recipe.parent.name}/{recipe.stem}.jsonl"
    assert files == set(named)
    assert all(file == expected for file, expected in named.items())
