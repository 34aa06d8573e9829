"""A run's folder becomes a repository on the Hub, in one commit or not at all."""

import logging
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from ssl_zoo.hub.card import PICTURES
from ssl_zoo.hub.export import PRETRAINING_FOLDER, ExportError, export_repo


logger = logging.getLogger(__name__)

_NAME = r"(?![-.])[A-Za-z0-9._-]+(?<![-.])"
_REPO_ID = re.compile(rf"(?!.*(--|\.\.))(?!.*\.git$){_NAME}/{_NAME}")
_LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN to a token with write access (hf.co/settings/tokens)."


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
        url (`str`): Where the commit can be seen; `None` after a dry run.
        commit (`str`): Id of the commit, the branch's head when nothing had changed; `None` after a dry run.
        changed (`bool`): Whether there was anything to commit.
    """

    repo_id: str
    revision: str
    files: dict[str, int]
    card: str
    url: str | None = None
    commit: str | None = None
    changed: bool = False


@dataclass
class _State:
    """What a push has done so far, for the sentence that a failure ends with."""

    repo_id: str
    revision: str
    created_repo: bool = False
    created_branch: bool = False
    head: str | None = None
    committing: bool = False


def publish(
    run_dir: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    dry_run: bool = False,
) -> Publication:
    """Publish a finished run as a model repository.

    All files go into one commit, so readers see the whole new version or the whole old one. Repeating a publication
    that changed nothing makes no commit.

    Args:
        run_dir (`str` or `Path`): Folder of the run.
        repo_id (`str`): `"org/name"`; made when it doesn't exist.
        private (`bool`): Make a private repository; an existing public one is refused.
        revision (`str`, *optional*): Branch to commit to, `main` by default; made when it doesn't exist.
        token (`str`, *optional*): Access token; the one you are logged in with by default.
        dry_run (`bool`): Only make the files; nothing is sent and no network is needed.

    Returns:
        [`Publication`]

    Raises:
        PublishError: when the run can't be exported or the Hub refuses; a failed push leaves the branch as it was.
    """
    _check_repo_id(repo_id)
    with tempfile.TemporaryDirectory(prefix="ssl_zoo-") as folder:
        try:
            files = export_repo(run_dir, folder, repo_id=repo_id, revision=revision)
        except ExportError as error:
            raise PublishError(str(error)) from error
        made = Publication(
            repo_id=repo_id,
            revision=revision or "main",
            files={file.as_posix(): (Path(folder) / file).stat().st_size for file in files},
            card=(Path(folder) / "README.md").read_text(encoding="utf-8"),
        )
        if dry_run:
            return made
        api = HfApi(token=token, library_name="ssl_zoo")
        state = _State(repo_id, made.revision)
        try:
            _prepare(api, state, private=private)
            _commit(api, state, Path(folder), made)
        except PublishError:
            raise
        except Exception as error:  # whatever a push dies of, the user must learn what it left behind
            raise PublishError(f"{_explain(error, state)} {_left_behind(api, state)}") from error
        return made


def _check_repo_id(repo_id: str) -> None:
    if not _REPO_ID.fullmatch(repo_id) or len(repo_id) > 96:
        raise PublishError(
            f"'{repo_id}' is no id of a repository: expected org/name, each of letters, digits, '-', '_' and '.', not "
            f"beginning or ending with '-' or '.', without '--' and '..', 96 characters at most"
        )


def _prepare(api: HfApi, state: _State, *, private: bool) -> None:
    """Make the repository and the branch where they don't exist."""
    try:
        api.create_repo(state.repo_id, private=private)
        state.created_repo = True
        logger.info("made the repository %s", state.repo_id)
    except HfHubHTTPError as error:
        # A token may write to an existing repository without the right to make one; so look before giving up.
        if error.response.status_code not in (401, 402, 403, 409) or not _exists(api, state.repo_id):
            raise
    if private and not state.created_repo and not api.repo_info(state.repo_id).private:
        raise PublishError(
            f"'{state.repo_id}' exists and is public, so publishing to it would not be private: choose another name, "
            f"or make it private in its settings. Nothing was sent."
        )
    branches = {branch.name: branch.target_commit for branch in api.list_repo_refs(state.repo_id).branches}
    if state.revision not in branches:
        api.create_branch(state.repo_id, branch=state.revision)
        state.created_branch = True
        branches[state.revision] = branches["main"]
    state.head = branches[state.revision]


def _exists(api: HfApi, repo_id: str) -> bool:
    try:
        return api.repo_exists(repo_id)
    except HfHubHTTPError:
        return False


def _commit(api: HfApi, state: _State, folder: Path, made: Publication) -> None:
    """Send everything in one commit.

    Not `upload_folder`: with hf_xet installed it splits an upload into several commits.
    """
    stale = [path for path in api.list_repo_files(state.repo_id, revision=state.revision) if _is_ours(path)]
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        *(CommitOperationDelete(path) for path in stale if path not in made.files),
        *(CommitOperationAdd(path, folder / path) for path in made.files),
    ]
    state.committing = True
    info = api.create_commit(
        state.repo_id,
        operations,
        commit_message="Publish model, training recipe, log and results",
        revision=state.revision,
        parent_commit=state.head,
    )
    made.url, made.commit, made.changed = str(info.commit_url), info.oid, info.oid != state.head


def _is_ours(path: str) -> bool:
    """Whether only publishing writes such a file: what an earlier run left must not pass for this run's."""
    return path.startswith(f"{PRETRAINING_FOLDER}/") or (
        "/" not in path and path.endswith((".py", ".jsonl", ".safetensors", *PICTURES, "recipe.yaml"))
    )


def _explain(error: Exception, state: _State) -> str:
    namespace = state.repo_id.split("/")[0]
    while not isinstance(error, HfHubHTTPError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # the client wraps what goes wrong with one file of an upload
    if isinstance(error, LocalTokenNotFoundError):
        return f"You are not logged in to the Hub. {_LOG_IN}"
    if not isinstance(error, HfHubHTTPError):
        reason = " ".join(str(error).split()) or "no reason given"
        return f"The connection to the Hub failed ({type(error).__name__}: {reason}). Check the network and try again."
    status = error.response.status_code
    said = error.response.headers.get("X-Error-Message") or error.server_message or str(error).strip().splitlines()[0]
    if status == 401:
        return f"The Hub doesn't know you (401: {said}). {_LOG_IN}"
    if status == 403:
        return (
            f"Your token may not write to '{state.repo_id}' (403: {said}). Use a token with write access and a "
            f"namespace that is yours: '{namespace}' must be your user name or an organisation you may write to."
        )
    if status == 404:
        return f"The Hub finds no '{state.repo_id}' that you may write to (404: {said}). Check the name and the token."
    if status in (409, 412):
        return f"Somebody else changed '{state.repo_id}' in the meantime ({status}: {said}). Look at it and try again."
    return f"The Hub refused ({status}: {said})."


def _left_behind(api: HfApi, state: _State) -> str:
    """Say what a failed push left on the Hub, after looking if it can be looked at."""
    made = []
    if state.created_repo:
        made.append(f"the new repository '{state.repo_id}'")
    if state.created_branch:
        made.append(f"the new branch '{state.revision}'")
    exists = "Nothing of this push is visible."
    if made:
        exists = f"Of this push there is {' and '.join(made)}, without the model."
    if state.committing:
        try:
            head = api.repo_info(state.repo_id, revision=state.revision).sha
        except Exception:  # no network, most likely: that is what failed in the first place
            head = None
            exists = "Whether the commit arrived is unknown; if it did, it did so whole."
        if head is not None and head != state.head:
            exists = f"But '{state.revision}' has a new commit, {head}: if it is yours, the model is published whole."
    return f"{exists} Repeating the command is safe: it continues with what is there and makes at most one commit."
