"""Changes that a view gets or doesn't get, with a probability for each kind of view: one function for all backends.

A switch `name` is a function in `SWITCHES` and a key `<name>_probability` of `ViewsConfig`. It is drawn and applied
after all other changes. The function takes RGB pixels of shape `(batch, 3, height, width)`, whole numbers from 0 to
255 as uint8 or float32, and returns the changed ones in the same shape and type. It leaves its argument as it is,
treats each image by itself, and reads no value on the host, so that a GPU need not wait.
"""

from collections.abc import Callable, Iterable

import torch

from ssl_zoo.data.decode import Pixels


__all__ = ["SWITCHES", "apply_switches", "solarize"]


def solarize(x: torch.Tensor) -> torch.Tensor:
    """Invert all values of 128 and above."""
    return torch.minimum(x, 255 - x)


SWITCHES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"solarize": solarize}
"""By name, in the order in which they are drawn and applied; changing the order changes every run."""


def apply_switches(pixels: Pixels, names: Iterable[str]) -> Pixels:
    """Apply some switches in order to one image `(height, width, 3)`, uint8, which is left as it is."""
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    for name in names:
        x = SWITCHES[name](x)
    changed: Pixels = x[0].permute(1, 2, 0).contiguous().numpy()
    return changed
