"""What visitors may open: checks their names of models and data sets, and resolves them."""

import json
import re
from pathlib import Path

import timm
import transformers
from huggingface_hub import HfApi
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

from ssl_zoo.data.embedded import EMBEDDED_NAME
from ssl_zoo.explore.workbench import ExploreError, Rules
from ssl_zoo.loading.models import ModelLoadError, find_file
from ssl_zoo.models.registry import method_names
from ssl_zoo.zoo.entries import load_index


__all__ = ["MAX_WEIGHT_BYTES", "check_data_name", "check_model_name", "visitor_message"]

MAX_WEIGHT_BYTES = 2_000_000_000
"""Largest weights that are fetched from the Hub for a visitor."""

_LONGEST_NAME = 200
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_WORD = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
_HUB_ADDRESS = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/(?:datasets/)?([^?#]*)")


def check_model_name(name: str, rules: Rules, revision: str | None = None) -> str:
    """Resolve a visitor's name of a model for `load_explorer`, before any weights are fetched.

    A model is a folder inside one of `rules.folders` (`"mira-cifar10"`, an embedded model, is one), a name of the zoo
    whose weights are in such a folder, a timm model, or a repository on the Hub. Its configuration must be of a vision
    model, and bring no code of its own unless `rules.remote_code`. A local folder becomes an absolute path.

    Args:
        name (`str`): As typed.
        rules ([`Rules`]): What this server allows.
        revision (`str`, *optional*): Commit, branch or tag on the Hub.

    Raises:
        ExploreError: It can't be opened; the message says why.
    """
    name = _plain(name, "model")
    entry = load_index().get(name)
    if entry is not None:
        if entry.folder is None and entry.origin == "ours" and entry.recipe:
            raise ExploreError(
                f"'{name}' has no weights to fetch: train it with {entry.recipe}, then open the run's folder"
            )
        if entry.folder is None:
            raise ExploreError(
                f"'{name}' is published in its authors' format only: convert the checkpoint with recipes/convert.py, "
                "then open the folder or the published repository"
            )
        name = Path(entry.folder).name
    folder = _inside(name, rules)
    if folder is None:
        if not (_WORD.fullmatch(name) and timm.is_model(name)) and not _is_hub_id(name):
            raise ExploreError(_unknown("model", name, rules))
        _check_no_folder(name)
    place = name if folder is None else str(folder)
    try:
        config = find_file(place, "config.json", revision=revision)
    except ModelLoadError as error:
        raise ExploreError(visitor_message(error, name=name, place=place)) from error
    if config is None:
        raise ExploreError(f"'{name}' has no config.json: it is no model of ssl_zoo, timm or transformers")
    _check_config(config, name, rules)
    if folder is None:
        _check_weight_bytes(name, revision)
    return place


def check_data_name(name: str, rules: Rules) -> str:
    """Resolve a visitor's name of a data set for `open_source`; a local folder becomes an absolute path.

    Args:
        name (`str`): `"embedded"`, a folder inside one of `rules.folders`, or a data set on the Hub (`org/name`).
        rules ([`Rules`]): What this server allows.

    Raises:
        ExploreError: It can't be opened; the message says why.
    """
    name = _plain(name, "data set")
    if name == EMBEDDED_NAME:
        return name
    folder = _inside(name, rules)
    if folder is not None:
        return str(folder)
    # Only org/name: a single word may be one of the loaders of `datasets`, which look around in local folders.
    if not _is_hub_id(name):
        raise ExploreError(_unknown("data set", name, rules))
    _check_no_folder(name)
    return name


def visitor_message(error: Exception, *, name: str, place: str | None = None) -> str:
    """The message of an error for visitors: without folders of the server, with the names of the page's fields.

    Args:
        error (`Exception`): From loading a model, or from opening a data set.
        name (`str`): What the visitor typed.
        place (`str`, *optional*): What it was turned into.
    """
    message = " ".join(str(error).split())
    chain, cause = [message], error.__cause__ or error.__context__
    while cause is not None and len(chain) < 10:
        chain.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    if any("trust_remote_code" in text or "custom code" in text for text in chain):
        return _remote_code(name)
    if place and Path(place).is_absolute():
        message = message.replace(place, name)
    message = re.sub(r" \(looked in [^)]*\)", "", message.replace(f"{Path.cwd()}/", ""))
    for key, field in (("split", "Split"), ("image_column", "Image column"), ("label_column", "Label column")):
        message = message.replace(f"`data.{key}`", f"'{field}'")
    return message.replace("`data.path`", "the data set").removesuffix(".")


def _plain(name: str, kind: str) -> str:
    """The name without surrounding blanks; anything but a plain name is refused."""
    name = name.strip()
    if not name:
        raise ExploreError(f"Name a {kind} to open")
    if len(name) > _LONGEST_NAME or not name.isprintable():
        raise ExploreError(f"The name of the {kind} is longer than {_LONGEST_NAME} characters, or isn't plain text")
    address = _HUB_ADDRESS.match(name)
    if address:
        words = [word for word in address.group(1).split("/") if word][:2]
        hint = f"; for this page, that is '{'/'.join(words)}'" if len(words) == 2 else ""
        raise ExploreError(f"Give the {kind} as org/name, not as an address{hint}")
    if "://" in name or name.startswith("file:"):
        raise ExploreError(f"'{name}' is an address; {kind}s are opened by name only: org/name on the Hub")
    if ".." in re.split(r"[/\\]", name) or "\\" in name or name.startswith("~"):
        raise ExploreError(f"'{name}' leads out of the folders that are open here")
    return name


def _inside(name: str, rules: Rules) -> Path | None:
    """The folder of this name inside the open folders, with links resolved; `None` if there is none."""
    for root in rules.folders:
        place = (root / name).resolve()  # of an absolute name, this is the name
        if place.is_relative_to(root.resolve()) and place.is_dir():
            return place
    return None


def _is_hub_id(name: str) -> bool:
    return bool(_HUB_ID.fullmatch(name)) and ".." not in name and "--" not in name


def _check_no_folder(name: str) -> None:
    """Refuse the name of a folder in the working directory of the server, which the loaders would read."""
    if Path(name).exists():
        raise ExploreError(f"'{name}' names a folder of this server, which isn't open to visitors")


def _check_config(file: Path, name: str, rules: Rules) -> None:
    """Refuse what transformers can't load, or only by running code of the repository."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        kind = config.get("model_type") or ("timm_wrapper" if "architecture" in config else None)
    except (ValueError, AttributeError) as error:
        raise ExploreError(f"The config.json of '{name}' is damaged: it isn't a JSON object") from error
    if kind in method_names() or kind == "timm_wrapper":
        return
    if kind not in CONFIG_MAPPING_NAMES:
        if config.get("auto_map") and rules.remote_code:
            return
        if config.get("auto_map"):
            raise ExploreError(_remote_code(name))
        raise ExploreError(
            f"'{name}' is a model of type '{kind}', which transformers {transformers.__version__} doesn't know"
        )
    if kind not in IMAGE_PROCESSOR_MAPPING_NAMES:
        raise ExploreError(f"'{name}' is a model of type '{kind}', which isn't a vision model")


def _check_weight_bytes(name: str, revision: str | None) -> None:
    timm_config = None if "/" in name else timm.get_pretrained_cfg(name)
    repository = timm_config.hf_hub_id or name if timm_config else name
    try:
        files = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=20).siblings or []
    except Exception:  # of the Hub's client or the network: what is cached can be opened without them
        return
    weights = [file for file in files if file.rfilename.endswith((".safetensors", ".bin")) and file.size]
    for ending in (".safetensors", ".bin"):  # one of the two is fetched
        sizes = [file.size or 0 for file in weights if file.rfilename.endswith(ending) and "/" not in file.rfilename]
        if sum(sizes) > MAX_WEIGHT_BYTES:
            raise ExploreError(
                f"The weights of '{name}' have {sum(sizes) / 1e9:.1f} GB; at most {MAX_WEIGHT_BYTES / 1e9:.0f} GB are "
                "fetched here"
            )
        if sizes:
            return


def _remote_code(name: str) -> str:
    return (
        f"'{name}' brings Python code of its own, which this server doesn't run; whoever runs the server can allow it "
        "with --allow-remote-code"
    )


def _unknown(kind: str, name: str, rules: Rules) -> str:
    other = "a timm model" if kind == "model" else f"'{EMBEDDED_NAME}'"
    folders = ", or a folder inside the open ones" if rules.folders else ""
    return f"There is no {kind} '{name}' here: expected org/name on the Hub, {other}{folders}"
