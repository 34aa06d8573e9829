"""What went wrong with a push: why, what to do, and what the push left on the Hub."""

from dataclasses import dataclass

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled


__all__ = ["Progress", "explain", "left_behind"]

_LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN to a token with write access (hf.co/settings/tokens)"

# Status of the Hub's answer -> what it means and the cure; `{said}` is the status and the Hub's own message.
_BY_STATUS = {
    401: "The Hub doesn't know you ({said}). " + _LOG_IN,
    402: "The Hub asks for a payment ({said}). The private storage of '{namespace}' may be used up",
    403: "Your token may not write to '{repo_id}' ({said}). Use a token with write access and a namespace of yours: "
    "'{namespace}' must be your user name or an organisation you may write to",
    404: "The Hub has no '{repo_id}' that you may write to ({said}). Check the name and the token",
    409: "Somebody else changed '{repo_id}' at the same time ({said}). Look at it and try again",
    412: "Somebody else changed '{repo_id}' at the same time ({said}). Look at it and try again",
    413: "A file is too large for the Hub ({said}). `--dry-run` lists the sizes; a log or a picture that has grown "
    "can be taken out of the run's folder",
    429: "You sent the Hub too many requests ({said}). {wait} and try again",
}


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
    """Say why the client raised an error and what to do: one or two sentences, without a full stop at the end."""
    while not isinstance(error, HfHubHTTPError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # the client wraps an error of a single file of an upload
    if isinstance(error, LocalTokenNotFoundError):
        return f"You are not logged in to the Hub. {_LOG_IN}"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so nothing asks the Hub. Unset it, or write to a folder by --out"
    if not isinstance(error, HfHubHTTPError):
        reason = " ".join(str(error).split()) or "no reason given"
        return f"The connection to the Hub failed ({type(error).__name__}: {reason}). Check the network and try again"
    status, headers = error.response.status_code, error.response.headers
    said = headers.get("X-Error-Message") or error.server_message or str(error).strip().splitlines()[0]
    seconds = headers.get("Retry-After")
    default = "The Hub refused ({said})"
    if status >= 500:
        default = "The Hub has a problem of its own ({said}). Try again later (status.huggingface.co)"
    return _BY_STATUS.get(status, default).format(
        said=f"{status}: {said}",
        repo_id=repo_id,
        namespace=repo_id.split("/")[0],
        wait=f"Wait {seconds} seconds" if seconds and seconds.isdigit() else "Wait some minutes",
    )


def left_behind(api: HfApi, progress: Progress) -> str:
    """Say what a failed push left on the Hub, after looking if possible; without a full stop at the end."""
    if progress.tagging:
        return (
            f"The model is published whole, without the tag '{progress.tagging}'. Repeating the command is safe: it "
            f"sends nothing again and sets the tag"
        )
    made, is_model = [], progress.repo_type == "model"
    if progress.created_repo:
        made.append(f"the new {'repository' if is_model else 'Space'} '{progress.repo_id}'")
    if progress.created_branch:
        made.append(f"the new branch '{progress.revision}'")
    state = "Nothing of this push is visible"
    if made:
        state = f"This push left {' and '.join(made)}, without {'the model' if is_model else 'the files'}"
    if progress.committing:
        try:
            head = api.repo_info(progress.repo_id, revision=progress.revision, repo_type=progress.repo_type).sha
        except Exception:  # most likely the network, which failed in the first place
            head = None
            state = "Whether the commit arrived is unknown; if it did, it arrived whole"
        if head is not None and head != progress.head:
            state = (
                f"But '{progress.revision}' has a new commit, {head}: if it is yours, "
                f"{'the model' if is_model else 'the Space'} is published whole"
            )
    return f"{state}. Repeating the command is safe: it continues with what is there and makes at most one commit"
