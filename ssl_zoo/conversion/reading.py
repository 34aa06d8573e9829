"""Reads an authors' checkpoint without running any code that is in it.

Nearly all of them are pickles, and unpickling a file runs whatever the file says. Here torch's restricted reader
builds tensors, containers and an `argparse.Namespace`, the harmless bag of command line options that MSF saves; a file
that wants anything else is refused, and the message names what it wants.
"""

import hashlib
import json
import logging
import pickle
import re
import zipfile
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from ssl_zoo.conversion.layout import Checkpoint, ConversionError


__all__ = ["TRAINING_STATE", "file_sha256", "read_checkpoint"]


logger = logging.getLogger(__name__)

# In this order: the first that is there holds the weights.
_STATE_KEYS = ("state_dict", "model_state_dict", "model", "net")
# State of the training that no model needs.
TRAINING_STATE = ("optimizer", "optimizer_state_dict", "scaler", "scheduler", "lr_scheduler", "amp")

_ALLOWED = (Namespace,)
_BLOCK = 1 << 22
_SLOW = 1 << 29
_UNSUPPORTED = re.compile(r"[Uu]nsupported (?:global: )?GLOBAL (\S+)")


def read_checkpoint(file: str | Path) -> Checkpoint:
    """Read the tensors, and what is said beside them, of a `.pth`, `.pth.tar`, `.pt` or `.safetensors` file.

    Args:
        file (`str` or `Path`): The file as it was downloaded.

    Returns:
        `Checkpoint`: its tensors still lie in the file where the format allows it, so it must stay.

    Raises:
        ConversionError: if there is no such file, it is no checkpoint or damaged, or it wants to run code.
    """
    path = Path(file)
    if not path.is_file():
        raise ConversionError(f"there is no file '{path}'; give the checkpoint as it was downloaded")
    size = path.stat().st_size
    _refuse_what_is_no_checkpoint(path, size)
    sha256 = file_sha256(path)
    content = _read_safetensors(path) if _is_safetensors(path, size) else _read_torch(path)
    state, extras = _split(content, path)
    return Checkpoint(state=state, extras=extras, file=path, sha256=sha256, bytes=size)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file of any size, in hexadecimal digits; a big one logs how far it is."""
    size, done, said = path.stat().st_size, 0, 0
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
            done += len(block)
            if size >= _SLOW and done * 10 // size > said:
                said = done * 10 // size
                logger.info("SHA-256 of %s: %d %% of %.1f GB", path.name, said * 10, size / 1e9)
    return digest.hexdigest()


def _refuse_what_is_no_checkpoint(path: Path, size: int) -> None:
    with path.open("rb") as stream:
        start = stream.read(512)
    if size < 100:
        raise ConversionError(f"'{path}' has {size} bytes, too few for a checkpoint: download it again")
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise ConversionError(
            f"'{path}' is a web page, not a checkpoint: the download stopped at a page that asks to confirm or to "
            f"sign in; open the address in a browser and save the file behind it"
        )
    if text.startswith(b"version https://git-lfs"):
        raise ConversionError(f"'{path}' is a Git LFS pointer, not the checkpoint: fetch the file with `git lfs pull`")
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")):
        raise ConversionError(f"'{path}' is a compressed archive: unpack it and give the checkpoint inside")


def _is_safetensors(path: Path, size: int) -> bool:
    """A length of 8 bytes that fits into the file, then JSON."""
    with path.open("rb") as stream:
        head = stream.read(9)
    return path.suffix == ".safetensors" or (head[8:9] == b"{" and 8 + int.from_bytes(head[:8], "little") <= size)


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt", device="cpu") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise ConversionError(
            f"'{path}' is not a complete safetensors file ({_first_line(error)}): download it again"
        ) from error


def _read_torch(path: Path) -> Any:
    """Read what `torch.save` wrote, now or years ago, and build nothing but what is known to be harmless."""
    try:
        with safe_globals(list(_ALLOWED)):
            # The format of torch 1.6 and later is a zip archive, which can be mapped instead of read.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        _refuse_code(path, error)
        raise ConversionError(
            f"'{path}' can't be read as a checkpoint of torch ({_first_line(error)}): it is damaged or of another kind"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ConversionError(
            f"'{path}' is damaged or cut short ({_first_line(error)}): compare its size with the publisher's and "
            f"download it again"
        ) from error


def _refuse_code(path: Path, error: pickle.UnpicklingError) -> None:
    """Raise if the reader stopped at a class or function; return if it stopped at something else."""
    refused = _UNSUPPORTED.search(str(error))
    wanted = {refused[1].strip("'\"`,.")} if refused else set()
    if not wanted:
        return
    if zipfile.is_zipfile(path):
        with safe_globals(list(_ALLOWED)):
            wanted |= set(get_unsafe_globals_in_checkpoint(path))
    names = ", ".join(sorted(wanted)[:6])
    if any(name.rpartition(".")[0].startswith(("models", "torch.nn", "torchvision.models")) for name in wanted):
        raise ConversionError(
            f"'{path}' is a whole pickled network, not only its tensors: to read it, the code that it names ({names}) "
            f"would have to run here. Load it where you trust it, with the authors' code, and save its "
            f"`.state_dict()`; then convert that"
        ) from error
    raise ConversionError(
        f"'{path}' wants to run code: it names {names}, which a checkpoint has no need of, and reading it could do "
        f"anything on this machine. If you trust its source, load it there and save only its tensors: "
        f"`torch.save({{'state_dict': checkpoint['state_dict']}}, 'clean.pth')`"
    ) from error


def _split(content: Any, path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tell the weights from what lies beside them."""
    if not isinstance(content, Mapping):
        raise ConversionError(f"'{path}' holds a {type(content).__name__}, expected a dictionary with tensors")
    holder = next((key for key in _STATE_KEYS if isinstance(content.get(key), Mapping)), None)
    if holder is None:
        named = {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}
        extras = {key: value for key, value in content.items() if key not in named}
    else:
        named = dict(content[holder])
        extras = {key: value for key, value in content.items() if key != holder}
    strange = [str(key) for key, value in named.items() if not isinstance(value, torch.Tensor)]
    if strange or not named:
        what = f"{', '.join(strange[:3])} in it are no tensors" if strange else "there are no tensors in it"
        raise ConversionError(
            f"'{path}' has no dictionary of tensors under {', '.join(_STATE_KEYS)} or at the top: {what} (there are "
            f"{', '.join(str(key) for key in list(content)[:6])})"
        )
    if all(name.startswith("module.") for name in named):
        named = {name.removeprefix("module."): tensor for name, tensor in named.items()}
    # The optimiser's tensors would be kept alive for nothing; that it was there is still said.
    kept = {str(key): None if key in TRAINING_STATE else value for key, value in extras.items()}
    return named, kept


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:160] if text else type(error).__name__
