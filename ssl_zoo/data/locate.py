"""Opens the data set that `data.path` names. Every failure becomes a `DataError` that says what to do."""

import os
from dataclasses import dataclass
from pathlib import Path

import datasets
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ssl_zoo.data.embedded import EMBEDDED_NAME, embedded_dataset_dir
from ssl_zoo.data.errors import DataError
from ssl_zoo.nearest import did_you_mean


__all__ = ["Located", "locate"]


@dataclass
class Located:
    """An opened data set.

    Attributes:
        dataset (`datasets.IterableDataset` or `datasets.Dataset`): The split, images not yet decoded.
        revision (`str` or `None`): The commit on the Hub; `None` for local files.
        path (`str`), name (`str` or `None`): What identifies it together with the revision.
        files (`list[str]`): The split's files.
        in_tables (`bool`): Whether the format is read as tables (parquet) or row by row (folders, tars).
    """

    dataset: datasets.IterableDataset | datasets.Dataset
    revision: str | None
    path: str
    name: str | None
    files: list[str]
    in_tables: bool


def locate(path: str, *, name: str | None, split: str, revision: str | None, streaming: bool) -> Located:
    """Open a split of a Hub data set, a local folder or the embedded set.

    Raises:
        DataError: No such folder, id, revision, configuration or split; no access; no network; no files.
    """
    folder = embedded_dataset_dir() if path == EMBEDDED_NAME else Path(path).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise DataError(
                f"`data.revision` is {revision!r}, but {path!r} is a local folder, which has no revisions. "
                "Remove it with data.revision=null"
            )
        return _open(str(folder), name=name, split=split, revision=None, streaming=streaming, hint="")
    if path.startswith((".", "~", os.sep)) or path.count("/") > 1:
        raise DataError(_missing_folder(path))
    sha, hint = _ask_hub(path, revision, streaming=streaming)
    return _open(path, name=name, split=split, revision=sha, streaming=streaming, hint=hint)


def _open(path: str, *, name: str | None, split: str, revision: str | None, streaming: bool, hint: str) -> Located:
    try:
        builder = datasets.load_dataset_builder(path, name, revision=revision)
        files = {str(name): names for name, names in (builder.config.data_files or {}).items()}
        if files and split not in files:
            raise DataError(
                f"{path!r} has no split {split!r}, only {sorted(files)}: choose one with `data.split`"
                f"{did_you_mean(split, files)}"
            )
        if streaming:
            dataset = builder.as_streaming_dataset(split)
        else:
            dataset = datasets.load_dataset(path, name, split=split, revision=revision)
    except DataError:
        raise
    except (datasets.exceptions.DatasetsError, OSError, ValueError, HfHubHTTPError) as error:
        raise DataError(f"{path!r} cannot be opened{hint}: {' '.join(str(error).split())}") from error
    in_tables = isinstance(builder, datasets.ArrowBasedBuilder)
    return Located(dataset, revision, path, name, [str(file) for file in files.get(split, [])], in_tables)


def _ask_hub(path: str, revision: str | None, *, streaming: bool) -> tuple[str | None, str]:
    """The commit that `revision` points to, and a hint for the error message if opening the set fails."""
    page = f"https://huggingface.co/datasets/{path}"
    gated = (
        f"; it is gated: accept its conditions at {page}, then log in with `hf auth login` or set the variable "
        "HF_TOKEN to a token of that account"
    )
    try:
        info = HfApi().dataset_info(path, revision=revision, timeout=60)
    except GatedRepoError as error:
        raise DataError(f"{path!r} cannot be opened{gated}") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise DataError(
            f"{_missing_folder(path)}. Nor is there a data set of that name on the Hub; if it is private, log in with "
            "`hf auth login` or set the variable HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise DataError(
            f"`data.revision` is {revision!r}, but {path!r} has no such commit, branch or tag; see {page}/commits/main"
        ) from error
    except HfHubHTTPError as error:
        raise DataError(f"The Hub refused to show {path!r}: {' '.join(str(error).split())}") from error
    except Exception as error:  # whatever the HTTP client at hand raises when there is no network
        if streaming:
            raise DataError(
                f"{_missing_folder(path)}. The Hub cannot be reached to stream it from there "
                f"({type(error).__name__}: {error}). Check the network, or set data.path to a local folder, or to "
                f"{EMBEDDED_NAME!r}, which needs no network"
            ) from error
        return revision, "; the Hub cannot be reached, and it is not among the sets downloaded before"
    return info.sha, gated if info.gated else ""


def _missing_folder(path: str) -> str:
    """Say that `path` is no folder here, and which name that is one is nearest."""
    parent = Path(path).expanduser().parent
    folders = [str(child) for child in parent.iterdir() if child.is_dir()] if parent.is_dir() else []
    hint = did_you_mean(str(Path(path).expanduser()), [*folders, EMBEDDED_NAME])
    return f"`data.path` is {path!r}, but there is no such folder (looked in {parent.resolve()}{hint})"
