"""Point the pages' links into the code at the lines where things are defined: python docs/number_links.py [--check].

A link is written as [`name`](../../ssl_zoo/file.py#L1); the number is that of the line that defines `name`.
"""

import os
import re
import sys
from pathlib import Path


DOCS = Path(__file__).resolve().parent
_LINK = re.compile(r"\[`(?P<name>[\w.]+)`\]\((?P<file>[^)#\s]+\.py)#L(?P<line>\d+)\)")


def renumber(page: Path) -> str:
    """The text of a page with all numbers right.

    Raises:
        ValueError: for a link to a file that isn't there, or that doesn't define the name.
    """

    def replace(link: re.Match[str]) -> str:
        file = Path(os.path.normpath(page.parent / link["file"]))
        if not file.is_file():
            raise ValueError(f"{page.name}: there is no file {link['file']}")
        lines = file.read_text(encoding="utf-8").splitlines()
        name = re.escape(link["name"].rpartition(".")[2])
        definition = re.compile(rf"\s*(?:def|class)\s+{name}\b|\s*{name}\s*(?::[^=]+)?=")
        found = next((number for number, line in enumerate(lines, 1) if definition.match(line)), None)
        if found is None:
            raise ValueError(f"{page.name}: {link['file']} doesn't define `{link['name']}`")
        return f"[`{link['name']}`]({link['file']}#L{found})"

    return _LINK.sub(replace, page.read_text(encoding="utf-8"))


def main() -> None:
    """Renumber all pages, or with --check only say which are wrong."""
    wrong = []
    for page in sorted([*DOCS.rglob("*.md"), DOCS.parent / "README.md"]):
        text = renumber(page)
        if text != page.read_text(encoding="utf-8"):
            wrong.append(page.name)
            if "--check" not in sys.argv:
                page.write_text(text, encoding="utf-8")
    print(f"{'wrong' if '--check' in sys.argv else 'renumbered'}: {', '.join(wrong) or 'none'}")
    sys.exit("--check" in sys.argv and bool(wrong))


if __name__ == "__main__":
    main()
