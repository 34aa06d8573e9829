"""Which slow tests a run of CI takes: first those of changed code, then others in turn, for a number of seconds.

`pytest -m slow --for-seconds 600` adds up the seconds of the marks, `slow(seconds=200)`; a mark without a number
counts as 30. The number of commits decides the order: the next commit takes others, the same commit takes the same.
"""

import random
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[1]
RECENT = 10  # commits whose changes count


def choose(items: Sequence[pytest.Item], *, seconds: float) -> set[str]:
    """Ids of the tests to run: in the order of their turn all that fit, and at least one."""
    turn = random.Random(_git("rev-list", "--count", "HEAD"))
    order = sorted(items, key=lambda item: (not is_touched(item.path, changed_places()), turn.random()))
    chosen: set[str] = set()
    for item in order:
        mark = item.get_closest_marker("slow")
        cost = mark.kwargs.get("seconds", 30) if mark else 30
        if cost <= seconds or not chosen:
            chosen.add(item.nodeid)
            seconds -= cost
    return chosen


def is_touched(test: Path, places: frozenset[str]) -> bool:
    """Whether a test's file has changed, is in the folder for a place that has, or names it as path or module."""
    if str(test.relative_to(ROOT)) in places or test.parent.name in {Path(place).name for place in places}:
        return True
    text = test.read_text(encoding="utf-8").replace("ssl_zoo.", "ssl_zoo/")
    return any((place if "/" in place else f'"{place}"') in text for place in places)


@cache
def changed_places() -> frozenset[str]:
    """What the last commits changed: folders such as `ssl_zoo/training`, scripts such as `recipes/train.py`, tests."""
    count = min(RECENT, int(_git("rev-list", "--count", "HEAD")) - 1)
    names = _git("diff", "--name-only", f"HEAD~{count}").splitlines()
    files = [Path(name) for name in names if "/" in name and not name.startswith("docs/")]
    places = set()
    for file in files:
        deep = file.parts[0] in ("ssl_zoo", "recipes") and len(file.parts) > 1
        places.add(str(file) if file.parts[0] == "tests" else "/".join(file.parts[:2] if deep else file.parts[:1]))
    return frozenset(places)


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()
