"""A run or a conversion becomes a repository on the Hub, in one commit or not at all."""

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from ssl_zoo.hub.export import PERMISSION, ExportError, export_repo
from ssl_zoo.hub.failures import Progress, explain, left_behind
from ssl_zoo.hub.history import History
from ssl_zoo.hub.refusals import refuse, refuse_names, refuse_tag, without_licence
from ssl_zoo.hub.remote import Changes, Remote, compare, is_exported, look, read_history
from ssl_zoo.hub.sources import Source
from ssl_zoo.models.registry import display_name


__all__ = ["Publication", "PublishError", "failure", "publish", "send", "write_repository"]

logger = logging.getLogger(__name__)


class PublishError(RuntimeError):
    """A model was not published; the message says why, what to do, and what exists on the Hub now."""


@dataclass
class Publication:
    """What was published, or would be.

    Args:
        repo_id (`str`): Id on the Hub.
        revision (`str`): Branch.
        files (`dict[str, int]`): Path in the repository -> size in bytes.
        card (`str`): The model card.
        changes ([`Changes`], *optional*): What it does to the branch; `None` where the Hub couldn't be asked.
        refusal (`str`, *optional*): Why a dry run's publication would be refused.
        notes (`list[str]`): What else a dry run tells.
        url (`str`, *optional*): Where the commit can be seen; `None` after a dry run.
        commit (`str`, *optional*): Id of the commit, the branch's head when nothing had changed; `None` after a dry
            run.
        changed (`bool`): Whether there was anything to commit.
    """

    repo_id: str
    revision: str
    files: dict[str, int]
    card: str
    changes: Changes | None = None
    refusal: str | None = None
    notes: list[str] = field(default_factory=list)
    url: str | None = None
    commit: str | None = None
    changed: bool = False


def publish(
    run_dir: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    tag: str | None = None,
    with_permission: bool = False,
    token: str | None = None,
    dry_run: bool = False,
) -> Publication:
    """Publish a finished run or a converted checkpoint as a model repository.

    All files go into one commit, so readers see the whole new version or the whole old one. Publishing again without
    changes makes no commit. The results of a branch are kept: those of the same weights are joined with
    the new ones, those of others go to `earlier_results.jsonl`.

    Args:
        run_dir (`str` or `Path`): Folder of the run, of the conversion, or that `write_repository` wrote.
        repo_id (`str`): `"org/name"`; made when it doesn't exist.
        private (`bool`): Make a private repository; an existing public one is refused.
        revision (`str`, *optional*): Branch to commit to, `main` by default; made when it doesn't exist.
        tag (`str`, *optional*): Name for this version. A tag never moves: one that exists elsewhere is refused.
        with_permission (`bool`): The authors, who stated no licence, allow these weights to be published.
        token (`str`, *optional*): Access token; the one you are logged in with by default.
        dry_run (`bool`): Only make the files and compare them; sends nothing and works without a network.

    Raises:
        PublishError: when the folder can't be exported, when these weights must not be published there, or when the
            Hub refuses; a failed push leaves the branch as it was.
    """
    api = HfApi(token=token, library_name="ssl_zoo")
    branch = revision or "main"
    if problem := refuse_names(repo_id, branch, tag, api=api):
        raise PublishError(problem)
    with _as_publish_errors():
        source = Source.read(run_dir)
    progress = Progress(repo_id, branch)
    remote, history, trouble = None, None, ""
    try:
        remote = look(api, repo_id, branch)
        history = read_history(api, remote, branch)
    except ExportError as error:
        raise PublishError(f"{error}. Nothing was sent") from error
    except Exception as error:  # whatever it is, the user must learn that nothing was sent
        if not dry_run:
            raise failure(api, progress, error) from error
        remote, trouble = None, explain(error, repo_id)
    options = {"private": private, "with_permission": with_permission}
    refusal = None if remote is None else refuse(remote, source, repo_id, branch, tag, **options)
    if refusal is not None and not dry_run:
        raise PublishError(f"{refusal}. Nothing was sent")

    with tempfile.TemporaryDirectory(prefix="ssl_zoo-") as folder:
        files = Path(folder) / "files"
        made = _export(source, files, repo_id, revision, history, with_permission=with_permission)
        if remote is None:
            made.notes.append(f"Not compared with the Hub. {trouble}")
            if source.is_unlicensed and not with_permission and not private:
                made.notes.append(f"Publishing to a public repository would be refused. {without_licence(source)}")
            return made
        try:
            made.changes = compare(remote, files, made.files, is_ours=lambda path: is_exported(api, remote, path))
            made.refusal = refusal or refuse_tag(remote, branch, tag, made.changes)
            if dry_run:
                return made
            if made.refusal is not None:
                raise PublishError(f"{made.refusal}. Nothing was sent")
            message, description = _describe(source, with_permission=with_permission)
            made.commit, made.changed = send(
                api, progress, remote, files, made.changes, private=private, message=message, description=description
            )
            made.url = f"{api.endpoint}/{repo_id}/commit/{made.commit}"
            if tag is not None and tag not in remote.tags:
                progress.tagging = tag
                api.create_tag(repo_id, tag=tag, revision=made.commit)
        except PublishError:
            raise
        except Exception as error:  # whatever it is, the user must learn what the push left behind
            raise failure(api, progress, error) from error
        return made


def write_repository(
    run_dir: str | Path, repo_id: str, out_dir: str | Path, *, revision: str | None = None, compact: bool = False
) -> list[Path]:
    """Write the files of a repository to a folder, without a network; that folder can be published as it is.

    Args:
        run_dir (`str` or `Path`): As for `publish`.
        repo_id (`str`): Id that the card's code loads from.
        out_dir (`str` or `Path`): Where to write; must be empty or missing.
        revision (`str`, *optional*): Branch that the card's code names.
        compact (`bool`): Leave out of the pretraining model what only further training needs and begins as a copy.

    Returns:
        `list[Path]`: The files, relative to `out_dir`.

    Raises:
        PublishError: when the folder can't be exported; `out_dir` is then as it was.
    """
    if problem := refuse_names(repo_id, revision or "main", None):
        raise PublishError(problem)
    with _as_publish_errors():
        return export_repo(run_dir, out_dir, repo_id=repo_id, revision=revision, compact=compact)


@contextlib.contextmanager
def _as_publish_errors() -> Iterator[None]:
    try:
        yield
    except ExportError as error:
        raise PublishError(str(error)) from error


def _export(
    source: Source, out: Path, repo_id: str, revision: str | None, history: History | None, *, with_permission: bool
) -> Publication:
    with _as_publish_errors():
        files = export_repo(
            source.folder, out, repo_id=repo_id, revision=revision, history=history, with_permission=with_permission
        )
    return Publication(
        repo_id=repo_id,
        revision=revision or "main",
        files={file.as_posix(): (out / file).stat().st_size for file in files},
        card=(out / "README.md").read_text(encoding="utf-8"),
    )


def _describe(source: Source, *, with_permission: bool) -> tuple[str, str | None]:
    """Message and description of the commit."""
    if source.conversion is None:
        return "Publish model, training recipe, log and results", None
    message = f"Publish converted weights of {display_name(source.method)}"
    if not (source.is_unlicensed and with_permission):
        return message, None
    return f"{message}, with permission", (
        f"The authors' release states no licence. Whoever published this says that they have the authors' permission "
        f"(`{PERMISSION}` in conversion.json)."
    )


def send(
    api: HfApi,
    progress: Progress,
    remote: Remote,
    folder: Path,
    changes: Changes,
    *,
    private: bool,
    message: str,
    description: str | None,
) -> tuple[str | None, bool]:
    """Send everything that has changed in one commit; the repository and the branch are made if they don't exist.

    Not `upload_folder`: with hf_xet installed it splits an upload into several commits.

    Args:
        api (`HfApi`): Sends.
        progress ([`Progress`]): Repository, branch and type; notes what has been done.
        remote ([`Remote`]): What is there.
        folder (`Path`): The files.
        changes ([`Changes`]): Which of them to send, and what to delete.
        private (`bool`): Make a new repository private.
        message (`str`): Of the commit.
        description (`str`, *optional*): Of the commit.

    Returns:
        The commit that holds the files, and whether it is a new one.
    """
    repo_id, repo_type = progress.repo_id, progress.repo_type
    progress.head = remote.head
    if not remote.exists:
        sdk = "gradio" if repo_type == "space" else None
        api.create_repo(repo_id, repo_type=repo_type, space_sdk=sdk, private=private)
        progress.created_repo = True
        logger.info("made the %s %s", "Space" if sdk else "repository", repo_id)
        progress.head = api.repo_info(repo_id, repo_type=repo_type).sha
    if progress.revision != "main" and progress.revision not in remote.branches:
        api.create_branch(repo_id, branch=progress.revision, revision=progress.head)
        progress.created_branch = True
    if not changes:
        return progress.head, False
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        *(CommitOperationDelete(path) for path in changes.deleted),
        *(CommitOperationAdd(path, folder / path) for path in (*changes.new, *changes.replaced)),
    ]
    progress.committing = True
    info = api.create_commit(
        repo_id,
        operations,
        repo_type=repo_type,
        commit_message=message,
        commit_description=description,
        revision=progress.revision,
        parent_commit=progress.head,
    )
    return info.oid, info.oid != progress.head


def failure(api: HfApi, progress: Progress, error: Exception) -> PublishError:
    """Say why a push failed, and what it left on the Hub."""
    return PublishError(f"{explain(error, progress.repo_id)}. {left_behind(api, progress)}")
