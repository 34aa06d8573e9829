"""What must not leave the machine: where files lie on it, and secrets."""

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any


# A path from the root, from the home folder or from a drive: quoted (may then hold blanks) or up to the next blank.
# `https://...` and `a/b` are none.
_START = r"(?:file://)?(?:~[\w.-]*[/\\]|/(?=[\w.~@-])|[A-Za-z]:[/\\](?=[\w.]))"
_QUOTED = rf"(?P<quote>['\"])(?P<inside>{_START}[^'\"\n]*)(?P=quote)"
_BARE = rf"(?<![\w.\-/\\:<]){_START}(?:\\.|[^\s'\"`,;:)\]}}])*"
_AFTER_COLON = r"(?<=:)/(?=[\w.~@-])(?:\\.|[^\s'\"`,;:)\]}])+"
_PATH = re.compile(f"{_QUOTED}|{_BARE}|{_AFTER_COLON}")
_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|CREDENTIAL", re.IGNORECASE)
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}\b")


def without_paths(value: Any) -> Any:
    """Shorten every absolute path in plain data to its last part.

    Args:
        value (`Any`): Strings, numbers, lists, dictionaries, as JSON or YAML have them.

    Returns:
        `Any`: A copy; `"python /home/me/x/recipes/train.py data.path=/data/pets"` becomes
        `"python train.py data.path=pets"`.
    """
    if isinstance(value, dict):
        return {without_paths(key): without_paths(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_paths(item) for item in value]
    if not isinstance(value, str):
        return value
    if re.match(_START, value) and Path(value).expanduser().exists():  # one path, perhaps with blanks in it
        return _last_part(value)
    return _PATH.sub(lambda match: _last_part(match["inside"] or match[0]), value)


def is_local_folder(path: str) -> bool:
    """Tell a folder from the id of a data set on the Hub, as `ssl_zoo.data` does."""
    return path.startswith((".", "~", "/")) or path.count("/") > 1 or "\\" in path or Path(path).is_dir()


def folder_name(path: str) -> str:
    """Return the name of a folder, however it was written down (`.`, `../pets`, `~/pets/`)."""
    return Path(path).expanduser().resolve().name


def _last_part(path: str) -> str:
    parts = [part for part in re.split(r"[/\\](?! )", path.removeprefix("file://")) if part]
    return parts[-1] if parts and parts != ["~"] else "."


def find_leaks(text: str, *, paths: tuple[Path, ...] = ()) -> list[str]:
    """Name what a text gives away: folders of this machine, tokens, secrets from the environment.

    Args:
        text (`str`): What would be published.
        paths (`tuple` of `Path`): Folders to look for, beside home, working, temporary and Python's folder.

    Returns:
        `list[str]`: A few words for each finding, without the secret itself.
    """
    found = []
    own = (Path.home(), Path.cwd(), Path(tempfile.gettempdir()), Path(sys.prefix), *paths)
    for path in {str(form) for folder in own for form in (folder, folder.resolve())}:
        if len(path) > 1 and re.search(rf"(?<![\w.:/-]){re.escape(path)}(?![\w-])", text):
            found.append(f"the path '{path}'")
    if _HUB_TOKEN.search(text):
        found.append("something that looks like a Hub token")
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value) >= 8 and value in text:
            found.append(f"the value of the environment variable {name}")
    return sorted(found)
