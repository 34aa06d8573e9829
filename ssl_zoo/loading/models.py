"""Loads the model of a run or a folder, of a repository on the Hub, or of timm."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import timm
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
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, PreTrainedModel, TimmWrapperModel

from ssl_zoo.models.registry import method_names


__all__ = [
    "Backbone",
    "ModelLoadError",
    "create_untrained",
    "find_file",
    "load_auto",
    "load_backbone",
    "load_pretraining_model",
]

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class ModelLoadError(ValueError):
    """A model can't be loaded; the message says what was found and what to do."""


def load_backbone(name: str, *, revision: str | None = None, remote_code: bool = False) -> PreTrainedModel:
    """Load a model that [`Backbone`] makes features of images with, in evaluation mode on the CPU.

    Args:
        name: Folder of a run (its `model/` is taken), a folder with a `config.json` such as a checkpoint, a repository
            on the Hub (`org/name`) with a vision model of ours, of timm's or of transformers', or the name of a timm
            model with pretrained weights (`resnet50.a1_in1k`, or `resnet50` for timm's default weights).
        revision: Commit, branch or tag on the Hub.
        remote_code: Whether to run Python code that a repository brings along.

    Raises:
        ModelLoadError: If there is no such model, or it can't be read.
    """
    model, info = load_auto(AutoModel, name, revision, output_loading_info=True, trust_remote_code=remote_code)
    # Of many checkpoints transformers makes up the pooling layer: a random one must not be evaluated.
    model.config.ssl_zoo_random_pooler = any("pooler" in key for key in info["missing_keys"])
    backbone: PreTrainedModel = model.eval()
    return backbone


def load_pretraining_model(name: str, *, revision: str | None = None) -> PreTrainedModel | None:
    """Load the full model with its heads, or `None` where there is only a backbone; otherwise as `load_backbone`."""
    config = load_auto(AutoConfig, name, revision)
    if config.model_type not in method_names():
        return None
    model, info = load_auto(AutoModelForPreTraining, name, revision, output_loading_info=True)
    complete = all(key.startswith(f"{model.base_model_prefix}.") for key in info["missing_keys"])
    return model.eval() if complete else None


def create_untrained(model: PreTrainedModel, *, seed: int) -> PreTrainedModel:
    """Make the same architecture, in evaluation mode, with the weights that a run with this seed begins with.

    Args:
        model (`PreTrainedModel`): From `load_backbone`.
        seed: Seed of torch's generator, which is left as it was.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        untrained = type(model)(copy.deepcopy(model.config))
        if isinstance(model, TimmWrapperModel):  # transformers redraws timm's own first weights
            config = model.config
            fresh = timm.create_model(config.architecture, num_classes=0, **(config.model_args or {}))
            untrained.get_submodule("timm_model").load_state_dict(fresh.state_dict())
    untrained.eval()
    return untrained


class Backbone(torch.nn.Module):
    """A model from `load_backbone` as a function from images `(batch, 3, height, width)` to features `(batch, width)`.

    The features are the model's own pooled output. A transformers model that has none, or whose pooling layer the
    checkpoint doesn't hold, gives its class token, or the mean over positions where there is none.

    Args:
        model (`PreTrainedModel`): Its parameters are this module's.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self._random_pooler = bool(getattr(model.config, "ssl_zoo_random_pooler", False))

    @property
    def configuration(self) -> str:
        """What its features follow from besides the weights; not where it was loaded from, or by which version."""
        config = self.model.config.to_dict()
        for name in ("_name_or_path", "transformers_version"):
            config.pop(name, None)
        return json.dumps([type(self.model).__qualname__, config], sort_keys=True, default=str)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features of shape `(batch, width)`."""
        get_image_features: Any = getattr(self.model, "get_image_features", None)  # of CLIP and its kin
        if get_image_features is not None:
            pooled = get_image_features(pixel_values=images)
            features = pooled if isinstance(pooled, torch.Tensor) else pooled.pooler_output
        else:
            output = self.model(pixel_values=images)
            pooled = None if self._random_pooler else getattr(output, "pooler_output", None)
            features = pooled if pooled is not None else self._pool(output.last_hidden_state)
        embeddings: torch.Tensor = features.flatten(1)
        return embeddings

    def _pool(self, hidden: torch.Tensor) -> torch.Tensor:
        if hidden.ndim == 4:
            return hidden.mean(dim=(2, 3))
        has_class_token = any(name.endswith("cls_token") for name, _ in self.model.named_parameters())
        return hidden[:, 0] if has_class_token else hidden.mean(dim=1)


def find_file(name: str, file: str, *, revision: str | None = None) -> Path | None:
    """Find a file that training left beside the model, such as `recipe.yaml`, downloaded if need be, or `None`.

    Args:
        name: As for `load_backbone`; of a checkpoint, the run's file is found.
        file: Name of the file.
        revision: Commit, branch or tag on the Hub.

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


def load_auto(auto_class: Any, name: str, revision: str | None, **options: Any) -> Any:
    """Call `from_pretrained` of one of transformers' Auto classes; what goes wrong becomes a `ModelLoadError`."""
    place = _locate(name)
    options.setdefault("trust_remote_code", False)  # said nothing, transformers would ask at the terminal
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
    if "/" not in name and timm.is_model(name):
        architecture, _, tag = name.partition(".")
        tags = [other.partition(".")[2] for other in timm.list_pretrained(architecture)]
        pretrained = timm.get_pretrained_cfg(name) if not tag or tag in tags else None
        if pretrained is None or not pretrained.hf_hub_id:
            there = ", ".join(f"{architecture}.{other}" for other in tags) or "none"
            raise ModelLoadError(f"timm has no pretrained weights '{name}' on the Hub; of this architecture: {there}")
        return str(pretrained.hf_hub_id)
    if not _HUB_ID.fullmatch(name):
        raise ModelLoadError(
            f"There is no folder '{name}', timm knows no model of this name, and a repository on the Hub has the form "
            "org/name"
        )
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
    elif "trust_remote_code" in str(error):
        cure = "it brings Python code of its own, which isn't run here; convert or publish it as a model without"
    else:
        cure = str(error)
    return ModelLoadError(f"'{repo_id}' can't be loaded from the Hub: {cure}")
