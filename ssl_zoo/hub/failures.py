"""What went wrong with a push, in words: why, what to do, and what it left behind."""

from dataclasses import dataclass

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled


__all__ = ["Progress", "explain", "left_behind"]

_LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN to a token with write access (hf.co/settings/tokens)."


@dataclass
class Progress:
    """What a push has done so far, for the sentence that a failure ends with."""

    repo_id: str
    revision: str
    repo_type: str = "model"
    created_repo: bool = False
    created_branch: bool = False
    head: str | None = None
    committing: bool = False
    tagging: str | None = None


def explain(error: Exception, repo_id: str) -> str:
    """Say why the Hub didn't take or give something, and what cures it.

    Args:
        error (`Exception`): What the client raised.
        repo_id (`str`): Repository that it was about.

    Returns:
        `str`: One or two sentences.
    """
    namespace = repo_id.split("/")[0]
    while not isinstance(error, HfHubHTTPError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # the client wraps what goes wrong with one file of an upload
    if isinstance(error, LocalTokenNotFoundError):
        return f"You are not logged in to the Hub. {_LOG_IN}"
    if isinstance(error, OfflineModeIsEnabled):
        return "The Hub may not be asked: HF_HUB_OFFLINE is set. Unset it, or write to a folder by --out."
    if not isinstance(error, HfHubHTTPError):
        reason = " ".join(str(error).split()) or "no reason given"
        return f"The connection to the Hub failed ({type(error).__name__}: {reason}). Check the network and try again."
    status = error.response.status_code
    said = error.response.headers.get("X-Error-Message") or error.server_message or str(error).strip().splitlines()[0]
    if status == 401:
        return f"The Hub doesn't know you (401: {said}). {_LOG_IN}"
    if status == 403:
        return (
            f"Your token may not write to '{repo_id}' (403: {said}). Use a token with write access and a "
            f"namespace that is yours: '{namespace}' must be your user name or an organisation you may write to."
        )
    if status == 402:
        return f"The Hub wants to be paid for this (402: {said}). Private storage of '{namespace}' may be used up."
    if status == 404:
        return f"The Hub finds no '{repo_id}' that you may write to (404: {said}). Check the name and the token."
    if status in (409, 412):
        return f"Somebody else changed '{repo_id}' in the meantime ({status}: {said}). Look at it and try again."
    if status == 413:
        return (
            f"The Hub finds a file too large (413: {said}). `--dry-run` lists the sizes; a log or a picture that has "
            f"grown can be taken out of the run's folder."
        )
    if status == 429:
        wait = error.response.headers.get("Retry-After")
        when = f"Wait {wait} seconds" if wait and wait.isdigit() else "Wait some minutes"
        return f"The Hub has had too many requests from you (429: {said}). {when} and try again."
    if status >= 500:
        return f"The Hub has a problem of its own ({status}: {said}). Try again later (status.huggingface.co)."
    return f"The Hub refused ({status}: {said})."


def left_behind(api: HfApi, progress: Progress) -> str:
    """Say what a failed push left on the Hub, after looking if it can be looked at."""
    if progress.tagging:
        return (
            f"The model is published whole, without the tag '{progress.tagging}'. Repeating the command is safe: it "
            f"sends nothing again and sets the tag."
        )
    made, is_model = [], progress.repo_type == "model"
    if progress.created_repo:
        made.append(f"the new {'repository' if is_model else 'Space'} '{progress.repo_id}'")
    if progress.created_branch:
        made.append(f"the new branch '{progress.revision}'")
    exists = "Nothing of this push is visible."
    if made:
        exists = f"Of this push there is {' and '.join(made)}, without {'the model' if is_model else 'the files'}."
    if progress.committing:
        try:
            head = api.repo_info(progress.repo_id, revision=progress.revision, repo_type=progress.repo_type).sha
        except Exception:  # no network, most likely: that is what failed in the first place
            head = None
            exists = "Whether the commit arrived is unknown; if it did, it did so whole."
        if head is not None and head != progress.head:
            exists = (
                f"But '{progress.revision}' has a new commit, {head}: if it is yours, "
                f"{'the model' if is_model else 'the Space'} is published whole."
            )
    return f"{exists} Repeating the command is safe: it continues with what is there and makes at most one commit."
