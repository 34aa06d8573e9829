"""The page that shows clusters becomes a Space on the Hub, in one commit or not at all."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml
from huggingface_hub import HfApi

from ssl_zoo.atomic import replace_atomically
from ssl_zoo.hub.failures import Progress, explain
from ssl_zoo.hub.privacy import file_leaks
from ssl_zoo.hub.publish import Publication, PublishError, failure, send
from ssl_zoo.hub.refusals import refuse_names, refuse_place
from ssl_zoo.hub.remote import compare, look
from ssl_zoo.provenance import commit


__all__ = ["publish_space", "write_space"]

PACKAGE = Path(__file__).parents[1]

# Kinds of files that the page and the package are made of; all other files are left out.
_TEXTS = (".css", ".html", ".jinja", ".js", ".json", ".jsonl", ".md", ".py", ".txt", ".typed", ".yaml")
_KINDS = (*_TEXTS, ".jpg", ".png", ".safetensors", ".svg", ".webp")
_NEEDED = ("app.py", "README.md", "requirements.txt")
_CODE = (".css", ".html", ".js", ".py")


def publish_space(
    space_dir: str | Path, repo_id: str, *, private: bool = False, token: str | None = None, dry_run: bool = False
) -> Publication:
    """Publish the page, its embedded models and this package's sources as a Space that runs on free hardware.

    Everything goes into one commit. Publishing again without changes makes none. Files that others added to the
    Space are kept; code of an earlier version that is gone here is deleted.

    Args:
        space_dir (`str` or `Path`): Folder of the page: `app.py`, `README.md` that says how it runs, and the rest.
        repo_id (`str`): `"org/name"`; made when it doesn't exist.
        private (`bool`): Make a private Space; an existing public one is refused.
        token (`str`, *optional*): Access token; the one you are logged in with by default.
        dry_run (`bool`): Only gather the files and compare them; sends nothing and works without a network.

    Returns:
        [`Publication`]: its `card` is the Space's README.

    Raises:
        PublishError: when the folder holds no Space, when a file holds a path or a secret of this machine, or when the
            Hub refuses; a failed push leaves the Space as it was.
    """
    api = HfApi(token=token, library_name="ssl_zoo")
    if problem := refuse_names(repo_id, "main", None, api=api):
        raise PublishError(problem)
    progress = Progress(repo_id, "main", repo_type="space")
    with tempfile.TemporaryDirectory(prefix="ssl_zoo-") as folder:
        files = Path(folder) / "files"
        made = _gather(Path(space_dir), files, repo_id)
        try:
            remote = look(api, repo_id, "main", repo_type="space")
        except Exception as error:  # whatever it is, the user must learn that nothing was sent
            if not dry_run:
                raise failure(api, progress, error) from error
            made.notes.append(f"Not compared with the Hub. {explain(error, repo_id)}")
            return made
        folders = {path.split("/")[0] for path in made.files if "/" in path}
        # A module that is gone must not stay beside the others.
        made.changes = compare(
            remote, files, made.files, is_ours=lambda path: path.endswith(_CODE) and path.split("/")[0] in folders
        )
        made.refusal = refuse_place(remote, repo_id, private=private)
        if dry_run:
            return made
        if made.refusal is not None:
            raise PublishError(f"{made.refusal}. Nothing was sent")
        try:
            made.commit, made.changed = send(
                api,
                progress,
                remote,
                files,
                made.changes,
                private=private,
                message="Publish the page with its models and the package",
                description=f"ssl_zoo at {commit() or 'an unknown commit'}",
            )
        except Exception as error:  # whatever it is, the user must learn what the push left behind
            raise failure(api, progress, error) from error
        made.url = f"{api.endpoint}/spaces/{repo_id}"
        return made


def write_space(space_dir: str | Path, out_dir: str | Path) -> list[Path]:
    """Write the files of the Space to a folder, without a network; `python app.py` runs it there.

    Args:
        space_dir (`str` or `Path`): As for `publish_space`.
        out_dir (`str` or `Path`): Where to write; must be empty or missing.

    Returns:
        `list[Path]`: The files, relative to `out_dir`.

    Raises:
        PublishError: when the folder holds no Space, or `out_dir` holds something; it is then as it was.
    """
    out = Path(out_dir)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise PublishError(f"'{out}' is not empty: name a folder that is empty or doesn't exist")
    out.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(out, overwrite=False) as files:
        made = _gather(Path(space_dir), files, "org/name")
    return [Path(name) for name in made.files]


def _gather(space: Path, out: Path, repo_id: str) -> Publication:
    """Copy the files of the Space to a folder, and refuse what must not leave this machine."""
    _check(space)
    left_out = []
    for root, place in ((space, out), (PACKAGE, out / PACKAGE.name)):
        for file in _files(root):
            if file.suffix not in _KINDS or file.is_symlink():
                left_out.append(file)
                continue
            target = place / file.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    names = sorted(file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file())
    for name in names:
        if leaks := file_leaks(out / name, paths=(space.absolute(),)):
            raise PublishError(f"{name} would give away {', '.join(leaks)}: take it out of the file first")
    made = Publication(
        repo_id=repo_id,
        revision="main",
        files={name: (out / name).stat().st_size for name in names},
        card=(out / "README.md").read_text(encoding="utf-8"),
    )
    made.notes += [f"'{file.name}' is left out: a Space has no files of this kind" for file in left_out]
    return made


def _files(root: Path) -> Iterator[Path]:
    """Files of a folder, without those of caches, builds and editors."""
    for place in sorted(root.iterdir()):
        if place.name.startswith(".") or place.name in ("__pycache__", "build", "runs"):
            continue
        if place.is_dir() and not place.is_symlink():
            yield from _files(place)
        elif place.is_file():
            yield place


def _check(space: Path) -> None:
    """Refuse a folder that the Hub couldn't run as a Space."""
    missing = [name for name in _NEEDED if not (space / name).is_file()]
    if missing:
        raise PublishError(
            f"'{space}' is not a Space: it has no {', '.join(missing)}. Expected the folder space/ of these sources"
        )
    if (space / PACKAGE.name).exists():
        raise PublishError(f"'{space}' already holds '{PACKAGE.name}', where the package's sources are put")
    _, _, rest = (space / "README.md").read_text(encoding="utf-8").partition("---\n")
    try:
        settings = yaml.safe_load(rest.partition("\n---")[0])
    except yaml.YAMLError:
        settings = None
    settings = settings if isinstance(settings, dict) else {}
    wrong = [
        f"`{name}: {settings.get(name)}` should be {expected}"
        for name, expected, right in (
            ("sdk", "gradio", settings.get("sdk") == "gradio"),
            ("sdk_version", "a version, such as 6.31.0", bool(settings.get("sdk_version"))),
            ("app_file", "app.py", settings.get("app_file") == "app.py"),
        )
        if not right
    ]
    if wrong:
        raise PublishError(f"The README.md of '{space}' doesn't say how Spaces run it: {', '.join(wrong)}")
