"""Every switch works alike in all backends, and one that is off changes no view."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_zoo.data import Batch, MultiView, ViewsConfig
from ssl_zoo.data.view_parameters import GLOBAL_1, GLOBAL_2, LOCAL, draw_view
from ssl_zoo.data.view_switches import SWITCHES, apply_switches


NOISE = np.random.default_rng(0).integers(0, 256, (4, 24, 24, 3), dtype=np.uint8)
PIXELS = torch.from_numpy(NOISE).permute(0, 3, 1, 2)


def only(name: str, probability: float = 1.0, **changes: Any) -> ViewsConfig:
    """Views of 24 pixels with crops and this switch, and nothing else."""
    still = {f"{other}_probability": [0.0] * 3 for other in ("color_jitter", "gray", "blur", *SWITCHES)}
    whole = {"global_size": 24, "global_scale": [1.0, 1.0], "aspect_ratio": [1.0, 1.0], "flip_probability": 0.0}
    plain = {"mean": [0.0] * 3, "std": [1 / 255] * 3}  # so that values stay from 0 to 255
    return ViewsConfig(**{**whole, **plain, **still, f"{name}_probability": [probability] * 3, **changes})


@pytest.mark.parametrize("name", SWITCHES)
class TestEverySwitch:
    def test_it_changes_pixels_of_either_type_alike(self, name: str) -> None:
        for pixels in (PIXELS, PIXELS.float()):
            before = pixels.clone()
            changed = SWITCHES[name](pixels)
            assert torch.equal(pixels, before), "the argument is left as it is"
            assert (changed.dtype, changed.shape) == (pixels.dtype, pixels.shape)
            assert not torch.equal(changed, before)
            assert torch.equal(changed.float(), SWITCHES[name](PIXELS).float())

    def test_it_treats_each_image_by_itself(self, name: str) -> None:
        alone = [SWITCHES[name](PIXELS[place : place + 1]) for place in range(len(PIXELS))]
        assert torch.equal(SWITCHES[name](PIXELS), torch.cat(alone))

    def test_all_backends_apply_it(self, name: str) -> None:
        for pixels in NOISE:
            image, expected = Image.fromarray(pixels), apply_switches(pixels, [name])
            for backend in ("reference", "fast"):
                assert np.array_equal(
                    MultiView(only(name, backend=backend)).crop(image, random.Random(0))[0], expected
                )
            transform = MultiView(only(name, backend="device"))
            views, parameters = transform.stack([transform.read({"bytes": png(image)}, random.Random(0))])
            assert np.array_equal(views[0][0].permute(1, 2, 0), pixels), "the device does it"
            batch = Batch(views, torch.zeros(1), torch.zeros(1), 0, 0, [], parameters=parameters)
            made = transform.to_device(batch, "cpu").views[0][0].permute(1, 2, 0)
            assert np.abs(made.numpy() - expected).max() < 1e-3

    def test_it_has_its_share(self, name: str) -> None:
        rng = random.Random(0)
        views = [draw_view(only(name, 0.3), (24, 24), rng, LOCAL) for _ in range(2000)]
        assert np.mean([name in view.switches for view in views]) == pytest.approx(0.3, abs=0.05)


def png(image: Image.Image) -> bytes:
    import io

    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_a_new_switch_that_is_off_shifts_no_view(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that don't use it see the same views as before it was added."""
    config, kinds = ViewsConfig(), (GLOBAL_1, GLOBAL_2, LOCAL)

    def drawn() -> list[Any]:
        rng = random.Random(3)
        return [draw_view(config, (500, 375), rng, kind) for kind in kinds for _ in range(50)]

    before = drawn()
    monkeypatch.setitem(SWITCHES, "toy", lambda x: 255 - x)
    monkeypatch.setattr(config, "toy_probability", [0.0] * 3, raising=False)
    assert drawn() == before
    monkeypatch.setattr(config, "toy_probability", [1.0] * 3)
    assert all("toy" in view.switches for view in drawn())
    assert drawn()[0].box == before[0].box
