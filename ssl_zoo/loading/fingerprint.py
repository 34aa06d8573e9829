"""Texts that change when a model does."""

import hashlib

import torch


__all__ = ["fingerprint", "weights_sha256"]


def fingerprint(model: torch.nn.Module, *, configuration: str = "") -> str:
    """A text that changes with any weight, with the kind of the model and with its configuration.

    Args:
        model (`torch.nn.Module`): Hashed by its class and its weights.
        configuration: What else its output follows from: the same weights with another pooling are another model.

    Returns:
        `str`: SHA-256, 64 hexadecimal digits.
    """
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    return hashlib.sha256(f"{kind}\n{configuration}\n{weights_sha256(model)}".encode()).hexdigest()


def weights_sha256(model: torch.nn.Module) -> str:
    """SHA-256 of what a checkpoint of the model holds; buffers that are never saved don't count."""
    left_out = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name not in left_out:
            value = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy() if value.numel() else b"")
    return digest.hexdigest()
