"""The `device` backend: flip, colour, blur and switches of a whole batch, on the training device.

Every sample has its own parameters, and the device never waits for the host: no branch depends on a value, no loop
runs over samples. Values stay whole numbers from 0 to 255 between the steps, rounded as PIL rounds them, so every step
equals torchvision's on PIL images, except that a few hues in a thousand differ by 1/255 of the circle. The blur is
torchvision's Gaussian; PIL's `GaussianBlur` approximates it by three box filters.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from ssl_zoo.data.view_parameters import BRIGHTNESS, CONTRAST, HUE, ViewParameters, view_kinds
from ssl_zoo.data.view_switches import SWITCHES
from ssl_zoo.data.views_config import ViewsConfig


__all__ = ["DeviceAugment", "blend", "device_augments", "gaussian_blur", "luma", "pack_parameters", "turn_hue"]


# Columns of the packed parameters: flip, grey, sigma, hue, one for each switch; the blends fill all that follow.
_BLENDS = 4 + len(SWITCHES)
# The hue step may come before, between or after the three other steps. Three places before and three after it allow
# every order: an unused place costs little, a second hue step would cost much.
_PLACES = 3
_NO_BLEND = (1.0, 0.0, 0.0)
_BLUR_SIGMAS = 3.0  # 0.3 % of the weight of a Gaussian is beyond


def pack_parameters(parameters: Sequence[ViewParameters]) -> torch.Tensor:
    """Pack what [`DeviceAugment`] needs of one view of each sample: float32 `(batch, columns)`."""
    return torch.tensor([_pack(one) for one in parameters], dtype=torch.float32)


def _pack(one: ViewParameters) -> list[float]:
    hue = -1.0  # none; a turn by 0 would still round the values
    before: list[float] = []
    after: list[float] = []
    for step, factor in one.jitter:
        if step == HUE:
            hue = float(int(factor * 255) % 256)  # PIL counts in 8 bits
            continue
        # Brightness blends with black, contrast with the mean grey, saturation with each pixel's grey.
        to_mean, to_gray = float(step == CONTRAST), float(step not in (BRIGHTNESS, CONTRAST))
        (before if hue < 0 else after).extend((factor, to_mean, to_gray))
    blends = [value for part in (before, after) for value in (part + list(_NO_BLEND) * _PLACES)[: 3 * _PLACES]]
    switches = [float(name in one.switches) for name in SWITCHES]
    return [float(one.flip), float(one.gray), one.blur_sigma or 0.0, hue, *switches, *blends]


class DeviceAugment(nn.Module):
    """Augments the crops of one view according to their parameters, and normalises them.

    Args:
        config (`ViewsConfig`): Which steps can happen, the largest blur, mean and standard deviation.
        kind (`int`): `GLOBAL_1`, `GLOBAL_2` or `LOCAL`: selects the probabilities of this view.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, config: ViewsConfig, kind: int) -> None:
        super().__init__()
        jitters = config.color_jitter_probability[kind] > 0
        self._num_blends = sum(strength > 0 for strength in config.color_jitter[:HUE]) if jitters else 0
        self._turns_hue = jitters and config.color_jitter[HUE] > 0
        self._grays = config.gray_probability[kind] > 0
        self._switches = [name for name in SWITCHES if getattr(config, f"{name}_probability")[kind] > 0]
        self._blur_radius = math.ceil(_BLUR_SIGMAS * config.blur_sigma[1]) if config.blur_probability[kind] > 0 else 0
        mean, std = torch.tensor(config.mean).view(3, 1, 1), torch.tensor(config.std).view(3, 1, 1)
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)

    def forward(self, pixels: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Flip, colour, grey, blur, switches, normalise.

        Args:
            pixels (`torch.Tensor` of shape `(batch, 3, height, width)`): The crops, uint8.
            parameters (`torch.Tensor` of shape `(batch, columns)`): From [`pack_parameters`], on the same device.

        Returns:
            `torch.Tensor` of shape `(batch, 3, height, width)`: float32, in channels_last memory.
        """
        flip, gray, sigma, hue, *switches = parameters[:, :_BLENDS, None, None, None].unbind(1)
        # Contiguous channels: most steps treat the channels differently, or sum over them.
        x = torch.where(flip > 0, pixels.flip(3), pixels).to(torch.float32, memory_format=torch.contiguous_format)
        before, after = parameters[:, _BLENDS:].view(-1, 2, _PLACES, 3).unbind(1)
        x = self._blend(x, before)
        if self._turns_hue:
            x = self._blend(torch.where(hue >= 0, turn_hue(x, hue), x), after)
        if self._grays:
            x = torch.where(gray > 0, luma(x), x)
        if self._blur_radius:
            x = gaussian_blur(x, sigma[:, 0, 0, 0], radius=self._blur_radius)
        for (name, switch), is_on in zip(SWITCHES.items(), switches, strict=True):
            if name in self._switches:
                x = torch.where(is_on > 0, switch(x), x)
        return x.contiguous(memory_format=torch.channels_last).mul_(self.scale).add_(self.shift)

    def _blend(self, x: torch.Tensor, blends: torch.Tensor) -> torch.Tensor:
        for number in range(self._num_blends):
            factor, to_mean, to_gray = blends[:, number, :, None, None, None].unbind(1)
            x = blend(x, factor, to_mean=to_mean, to_gray=to_gray)
        return x


def device_augments(config: ViewsConfig) -> Iterator[DeviceAugment]:
    """One per view, in the order of the views."""
    return (DeviceAugment(config, kind) for kind in view_kinds(config))


def luma(x: torch.Tensor) -> torch.Tensor:
    """Grey `(batch, 1, height, width)` of RGB pixels `(batch, 3, height, width)` (ITU-R 601-2), rounded as in PIL.

    Pixels and grey are whole numbers from 0 to 255, so all sums are exact in float32.
    """
    red, green, blue = x.split(1, dim=1)
    total: torch.Tensor = (red * 19595).add_(green, alpha=38470).add_(blue, alpha=7471)
    return total.add_(32768).mul_(1 / 65536).floor_()


def blend(x: torch.Tensor, factor: torch.Tensor, *, to_mean: torch.Tensor, to_gray: torch.Tensor) -> torch.Tensor:
    """Move pixels away from black, from the image's mean grey or from their own grey by a factor.

    Args:
        x (`torch.Tensor` of shape `(batch, 3, height, width)`): Whole numbers from 0 to 255, as is the result.
        factor (`torch.Tensor` of shape `(batch, 1, 1, 1)`): 1 changes nothing, 0 gives black or the grey.
        to_mean (`torch.Tensor` of shape `(batch, 1, 1, 1)`): 1 where it is the mean grey, else 0.
        to_gray (`torch.Tensor` of shape `(batch, 1, 1, 1)`): 1 where it is their own grey, else 0.
    """
    gray = luma(x)
    mean = gray.mean(dim=(2, 3), keepdim=True).add_(0.5).floor_()
    target = gray * to_gray + mean * to_mean
    # Not `lerp`, which rounds differently.
    return (x - target).mul_(factor).add_(target).clamp_(0, 255).floor_()


def turn_hue(x: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """Turn the hue by so many 255ths of the circle, with hue and saturation rounded to 8 bits as PIL does.

    Args:
        x (`torch.Tensor` of shape `(batch, 3, height, width)`): Whole numbers from 0 to 255, as is the result.
        steps (`torch.Tensor` of shape `(batch, 1, 1, 1)`): Whole numbers from 0 to 255.
    """
    red, green, blue = x.split(1, dim=1)
    value = x.amax(1, keepdim=True)
    chroma = value - x.amin(1, keepdim=True)
    is_red, is_green = red == value, green == value
    rise = torch.where(is_red, green - blue, torch.where(is_green, blue - red, red - green))
    # `where` with Python numbers would copy them to the GPU and wait.
    sextant = (4 - 2 * is_green.to(x.dtype)) * ~is_red
    hue = (rise / chroma.clamp(min=1) + sextant).remainder_(6).mul_(42.5).floor_()  # 255 / 6
    hue = hue.add_(steps).remainder_(256).mul_(6).div_(255)
    saturation = (chroma * 255).div_(value.clamp(min=1)).floor_()
    # Each channel is at its minimum for a third of the circle and at its maximum for another: red around 0, green
    # around 2, blue around 4.
    offsets = 5 - 2 * torch.arange(3, device=x.device).view(3, 1, 1)
    share: torch.Tensor = (hue + offsets).remainder_(6).sub_(2).abs_().neg_().add_(2).clamp_(0, 1)
    return share.mul_(value * saturation / -255).add_(value).add_(0.5).floor_()


def gaussian_blur(x: torch.Tensor, sigma: torch.Tensor, *, radius: int) -> torch.Tensor:
    """Blur each image with a Gaussian of its own, by rows and then by columns; mirrored at the borders.

    Args:
        x (`torch.Tensor` of shape `(batch, 3, height, width)`): Whole numbers from 0 to 255, as is the result.
        sigma (`torch.Tensor` of shape `(batch,)`): In pixels; 0 leaves the image as it is.
        radius (`int`): Pixels beyond which the Gaussian is cut off.
    """
    batch, channels, height, width = x.shape
    radius = min(radius, height - 1, width - 1)  # the limit of reflection padding
    distances = torch.arange(-radius, radius + 1, device=x.device) / sigma.clamp(min=0.01)[:, None]
    weights = distances.square_().mul_(-0.5).exp_()
    weights = (weights / weights.sum(1, keepdim=True)).repeat_interleave(channels, dim=0)[:, None, None]
    planes = x.reshape(1, batch * channels, height, width)
    padded = nn.functional.pad(planes, (radius,) * 4, mode="reflect")
    with torch.autocast(x.device.type, enabled=False):
        rows = nn.functional.conv2d(padded, weights, groups=batch * channels)
        blurred: torch.Tensor = nn.functional.conv2d(rows, weights.transpose(2, 3), groups=batch * channels)
    return blurred.add_(0.5).floor_().view(x.shape)
