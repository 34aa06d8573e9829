"""Hashes of models."""

import hashlib

import torch


__all__ = ["fingerprint", "weights_sha256"]


def fingerprint(model: torch.nn.Module, *, configuration: str = "") -> str:
    """SHA-256 of a model's class and weights, and of what else its output depends on, such as the pooling."""
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    return hashlib.sha256(f"{kind}\n{configuration}\n{weights_sha256(model)}".encode()).hexdigest()


def weights_sha256(model: torch.nn.Module) -> str:
    """SHA-256 of the tensors that a checkpoint of the model holds."""
    left_out = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name not in left_out:
            value = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy() if value.numel() else b"")
    return digest.hexdigest()
