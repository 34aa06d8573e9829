"""Loads what is to be evaluated: the model of a run, of a folder or of a repository on the Hub."""

import copy
import re
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, PreTrainedModel

from ssl_zoo.data.views import EvalView
from ssl_zoo.evaluation.features import Encoder
from ssl_zoo.models.registry import method_names


__all__ = [
    "ModelLoadError",
    "create_untrained",
    "encoder",
    "find_file",
    "load_backbone",
    "load_pretraining_model",
    "model_view",
    "view_size",
]

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class ModelLoadError(ValueError):
    """A model can't be loaded; the message says what was found and what to do."""


def load_backbone(name: str, *, revision: str | None = None) -> PreTrainedModel:
    """Load the feature extractor of a run, a folder or a repository, in evaluation mode on the CPU.

    Args:
        name: Folder of a run (its `model/` is taken), a folder with a `config.json` such as a checkpoint, or a
            repository on the Hub (`org/name`).
        revision: Commit, branch or tag on the Hub.

    Returns:
        `PreTrainedModel`: its output has a `pooler_output`.

    Raises:
        ModelLoadError: If there is no such model, or it can't be read.
    """
    model: PreTrainedModel = _load(AutoModel, name, revision)
    model.eval()
    return model


def load_pretraining_model(name: str, *, revision: str | None = None) -> PreTrainedModel | None:
    """Load the full model with its heads, in evaluation mode, or `None` where there is only a backbone.

    Args:
        name: As for `load_backbone`.
        revision: Commit, branch or tag on the Hub.

    Returns:
        `PreTrainedModel` or `None`: one that assigns pseudo-labels, if its method has prototypes.

    Raises:
        ModelLoadError: If there is no such model, or it can't be read.
    """
    config = _load(AutoConfig, name, revision)
    if config.model_type not in method_names():
        return None
    model, info = _load(AutoModelForPreTraining, name, revision, output_loading_info=True)
    complete = all(key.startswith(f"{model.base_model_prefix}.") for key in info["missing_keys"])
    return model.eval() if complete else None


def create_untrained(model: PreTrainedModel, *, seed: int) -> PreTrainedModel:
    """Make the same architecture with fresh weights, drawn as the training run with this seed drew its first ones.

    Args:
        model (`PreTrainedModel`): From `load_backbone`.
        seed: Seed of torch's generator, which is left as it was.

    Returns:
        `PreTrainedModel`: in evaluation mode.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        untrained = type(model)(copy.deepcopy(model.config))
    untrained.eval()
    return untrained


def encoder(model: PreTrainedModel) -> Encoder:
    """Wrap a model from `load_backbone` as a function from images to pooled features."""

    def encode(images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = model(pixel_values=images).pooler_output
        return features

    return encode


def model_view(model: PreTrainedModel) -> EvalView:
    """How the model's own configuration wants its images prepared.

    Raises:
        ModelLoadError: If the configuration doesn't say.
    """
    config = _preparation(model)
    return EvalView(
        view_size(model),
        mean=config["mean"],
        std=config["std"],
        crop_pct=float(config.get("crop_pct") or 0.875),
        interpolation=str(config.get("interpolation") or "bicubic"),
    )


def view_size(model: PreTrainedModel) -> int:
    """Side in pixels of the images that the model's own configuration wants."""
    return int(_preparation(model)["input_size"][-1])


def _preparation(model: PreTrainedModel) -> dict[str, Any]:
    config: dict[str, Any] = getattr(model.config, "pretrained_cfg", None) or {}
    missing = [key for key in ("input_size", "mean", "std") if not config.get(key)]
    if missing:
        raise ModelLoadError(
            f"The model's config.json doesn't say how images are prepared: `pretrained_cfg` lacks {', '.join(missing)}"
        )
    return config


def find_file(name: str, file: str, *, revision: str | None = None) -> Path | None:
    """Find a file that training left beside the model, such as `recipe.yaml`.

    Args:
        name: As for `load_backbone`; of a checkpoint, the run's file is found.
        file: Name of the file.
        revision: Commit, branch or tag on the Hub.

    Returns:
        `Path` or `None`: where it is, downloaded if need be; `None` if there is none.

    Raises:
        ModelLoadError: If there is no such model.
    """
    place = _locate(name)
    if isinstance(place, Path):
        folders = (place, *place.absolute().parents[:2])
        return next((folder / file for folder in folders if (folder / file).is_file()), None)
    try:
        return Path(hf_hub_download(place, file, revision=revision))
    except LocalEntryNotFoundError as error:  # a kind of EntryNotFoundError, but it means no network
        raise _hub_error(place, error) from error
    except EntryNotFoundError:
        return None
    except (HfHubHTTPError, OSError) as error:
        raise _hub_error(place, error) from error


def _load(auto_class: Any, name: str, revision: str | None, **options: Any) -> Any:
    place = _locate(name)
    if isinstance(place, str):
        options["revision"] = revision or "main"
    try:
        return auto_class.from_pretrained(place, **options)
    except Exception as error:  # of many kinds: the Hub client's, safetensors', torch's
        if isinstance(place, str):
            raise _hub_error(place, error) from error
        raise ModelLoadError(f"The model in '{place}' can't be read: {error}") from error


def _locate(name: str) -> Path | str:
    """Folder that holds `config.json`, or the id of a repository."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        for candidate in (folder / "model", folder):
            if (candidate / "config.json").is_file():
                return candidate
        checkpoints = sorted(path.parent for path in folder.glob("checkpoints/*/config.json"))
        if checkpoints:
            raise ModelLoadError(
                f"The run '{name}' has not ended: there is no '{folder / 'model'}'. Continue it, or evaluate its last "
                f"checkpoint, '{checkpoints[-1]}'"
            )
        raise ModelLoadError(
            f"'{name}' holds no model: expected a run's folder with `model/`, or a folder with `config.json`"
        )
    if not _HUB_ID.fullmatch(name):
        raise ModelLoadError(f"There is no folder '{name}', and a repository on the Hub has the form org/name")
    return name


def _hub_error(repo_id: str, error: Exception) -> ModelLoadError:
    """Say which of the usual things went wrong; transformers wraps what the Hub's client raised."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)

    def raised(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if raised(GatedRepoError):
        cure = "it is gated: accept its terms on its page and log in with `hf auth login`"
    elif raised(RepositoryNotFoundError):
        cure = "there is no such repository, or it is private: check the spelling, or log in with `hf auth login`"
    elif raised(RevisionNotFoundError):
        cure = "it has no such revision: check the spelling of the branch, tag or commit"
    elif raised(LocalEntryNotFoundError, OfflineModeIsEnabled):
        cure = "the Hub can't be reached and no copy is in the cache: check the network, or give a local folder"
    else:
        cure = str(error)
    return ModelLoadError(f"'{repo_id}' can't be loaded from the Hub: {cure}")
