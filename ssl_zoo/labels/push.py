"""Sends a folder of pseudo-labels to the Hub as a data set."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from ssl_zoo.labels.heads import LabelError


__all__ = ["push_labels"]


def push_labels(folder: Path, repo_id: str, *, private: bool = False) -> str:
    """Upload labels to a data set repository, made when it doesn't exist; return the address of the commit.

    Args:
        folder (`Path`): What `label_images` wrote.
        repo_id (`str`): `"org/name"`.
        private (`bool`): Make it private; an existing public one is refused.

    Raises:
        LabelError: The Hub refuses, or can't be reached. The labels stay where they are.
    """
    again = f"The labels are whole in '{folder}'; the same command sends them again."
    api = HfApi(library_name="ssl_zoo")
    try:
        api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        if private and not api.repo_info(repo_id, repo_type="dataset").private:
            raise LabelError(
                f"'{repo_id}' exists and is public, so the labels would not be private: choose another name, or make "
                f"it private in its settings. Nothing was sent. {again}"
            )
        info = api.upload_folder(
            repo_id=repo_id,
            repo_type="dataset",
            folder_path=folder,
            commit_message="Upload pseudo-labels",
            delete_patterns="data/*.parquet",  # files of earlier labels, which may have been more
        )
    except LocalTokenNotFoundError as error:
        raise LabelError(f"You are not logged in to the Hub: use `hf auth login`. {again}") from error
    except (HFValidationError, HfHubHTTPError) as error:
        reason = " ".join(str(error).split())
        raise LabelError(f"The Hub doesn't take the labels to '{repo_id}': {reason}. {again}") from error
    except OSError as error:
        raise LabelError(f"The connection to the Hub failed: {error}. {again}") from error
    return str(info.commit_url)
