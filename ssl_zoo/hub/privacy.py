"""What must not leave the machine: its paths, and secrets."""

import os
import re
import struct
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


__all__ = ["file_leaks", "find_leaks", "folder_name", "is_local_folder", "without_paths"]


# A path that begins at the root, the home folder or a drive: quoted (it may then hold blanks) or up to the next blank.
# `https://...` and `a/b` are not such paths.
_START = r"(?:file://)?(?:~[\w.-]*[/\\]|/(?=[\w.~@-])|[A-Za-z]:[/\\](?=[\w.]))"
_QUOTED = rf"(?P<quote>['\"])(?P<inside>{_START}[^'\"\n]*)(?P=quote)"
_BARE = rf"(?<![\w.\-/\\:<]){_START}(?:\\.|[^\s'\"`,;:)\]}}])*"
_AFTER_COLON = r"(?<=:)/(?=[\w.~@-])(?:\\.|[^\s'\"`,;:)\]}])+"
_PATH = re.compile(f"{_QUOTED}|{_BARE}|{_AFTER_COLON}")
_SECRET_NAME = re.compile(
    r"TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|CREDENTIAL|WEBHOOK|DATABASE_URL",
    re.IGNORECASE,
)
_SECRETS = {
    "something that looks like a Hub token": re.compile(r"\bhf_[A-Za-z0-9]{20,}\b"),
    "something that looks like a GitHub token": re.compile(r"\b(gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{50,})\b"),
    "something that looks like a key of AWS": re.compile(r"\b(AKIA|ASIA)[0-9A-Z]{16}\b"),
    "something that looks like an API key": re.compile(r"\bsk-[A-Za-z0-9_-]{32,}\b"),
    "something that looks like a Slack token": re.compile(r"\bxox[abposr]-[0-9A-Za-z-]{20,}"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a URL with a password": re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/:@'\"]+:[^\s/@'\"]+@"),
}


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
    """Name what a text gives away: folders of this machine, tokens, secrets of the environment.

    Args:
        text (`str`): What would be published.
        paths (`tuple` of `Path`): Folders to look for, besides the home, working, temporary and Python folders.

    Returns:
        `list[str]`: A description of each finding, without the secret itself.
    """
    leaks = []
    folders = (Path.home(), Path.cwd(), Path(tempfile.gettempdir()), Path(sys.prefix), *paths)
    for path in {str(form) for folder in folders for form in (folder, folder.resolve())}:
        if len(path) > 1 and re.search(rf"(?<![\w.:/-]){re.escape(path)}(?![\w-])", text):
            leaks.append(f"the path '{path}'")
    leaks += [description for description, pattern in _SECRETS.items() if pattern.search(text)]
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value) >= 8 and value in text:
            leaks.append(f"the value of the environment variable {name}")
    return sorted(leaks)


def file_leaks(file: Path, *, paths: tuple[Path, ...] = ()) -> list[str]:
    """As `find_leaks`, for a text, a PNG picture or a safetensors file, also in the metadata of the latter two."""
    return find_leaks(_readable_text(file), paths=paths)


def _readable_text(file: Path) -> str:
    if file.suffix == ".safetensors":
        with file.open("rb") as stream:  # the header; numbers follow
            (size,) = struct.unpack("<Q", stream.read(8))
            # JSON may write a character as its code point; look at both forms.
            raw = stream.read(size).decode("utf-8", errors="replace")
        return f"{raw}\n{_unescaped(raw)}"
    data = file.read_bytes()
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "\n".join(_png_texts(data))
    text = data.decode("utf-8", errors="replace")
    return f"{text}\n{_unescaped(text)}" if file.suffix in (".json", ".jsonl") else text


def _unescaped(text: str) -> str:
    return re.sub(r"\\(?:u([0-9a-fA-F]{4})|(.))", lambda match: chr(int(match[1], 16)) if match[1] else match[2], text)


def _png_texts(data: bytes) -> Iterator[str]:
    """Everything in a PNG but the image: each ancillary chunk as text, decompressed, and what follows the end."""
    start, kind = 8, b""
    while start + 12 <= len(data) and kind != b"IEND":
        size, kind = struct.unpack(">I4s", data[start : start + 8])
        content = data[start + 8 : start + 8 + size]
        start += size + 12
        if kind in (b"zTXt", b"iTXt"):
            for match in re.finditer(b"\0", content):
                try:
                    yield zlib.decompress(content[match.end() :]).decode("utf-8", errors="replace")
                except zlib.error:
                    continue  # compressed text begins elsewhere
        if kind not in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
            yield content.decode("utf-8", errors="replace")
    yield data[start:].decode("utf-8", errors="replace")
