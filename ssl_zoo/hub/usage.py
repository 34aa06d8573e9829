"""How to load a published model: the code blocks of its card."""

import textwrap
from typing import Any

from ssl_zoo.nn.backbone import loads_in_timm


def render_usage(
    repo_id: str, revision: str | None, config: dict[str, Any], *, method: str, has_clusters: bool
) -> str:
    """Write the ways to load a published model, as code that runs.

    Args:
        repo_id (`str`): Id on the Hub, or a local folder where timm's line isn't wanted.
        revision (`str`, *optional*): Branch to load.
        config (`dict`): The root `config.json`.
        method (`str`): What the method is called.
        has_clusters (`bool`): Whether its pretraining model has `pseudo_labels`.

    Returns:
        `str`: Markdown. The first block prepares an image; each other block runs after it, on its own.
    """
    at = f', revision="{revision}"' if revision else ""
    prepare = f"""\
        import torch
        from PIL import Image
        from transformers import AutoImageProcessor

        image = Image.open("photo.jpg").convert("RGB")
        processor = AutoImageProcessor.from_pretrained("{repo_id}"{at})
        pixel_values = processor(image, return_tensors="pt")["pixel_values"]
        """
    own = f"""\
        import ssl_zoo
        from transformers import AutoModel

        model = AutoModel.from_pretrained("{repo_id}"{at})
        with torch.no_grad():
            embedding = model(pixel_values).pooler_output  # (1, {config["num_features"]})
        """
    remote = f"""\
        from transformers import AutoModel, pipeline

        model = AutoModel.from_pretrained("{repo_id}"{at}, trust_remote_code=True)
        with torch.no_grad():
            embedding = model(pixel_values).pooler_output

        extract = pipeline("image-feature-extraction", model="{repo_id}"{at}, trust_remote_code=True)
        features = extract(image, pool=True)
        """
    timm = f"""\
        import timm

        model = timm.create_model("hf-hub:{repo_id}{f"@{revision}" if revision else ""}", pretrained=True).eval()
        with torch.no_grad():
            embedding = model(pixel_values)
        """
    wrapper = f"""\
        from transformers import TimmWrapperModel

        model = TimmWrapperModel.from_pretrained("{repo_id}"{at})
        with torch.no_grad():
            embedding = model(pixel_values).pooler_output
        """
    full = f"""\
        from transformers import AutoModelForPreTraining

        model = AutoModelForPreTraining.from_pretrained("{repo_id}"{at}, trust_remote_code=True)
        """
    if has_clusters:
        full += "labels, confidence = model.pseudo_labels(pixel_values)  # the cluster of each image\n"
    parts = [
        ("First the image, prepared as in training:", prepare),
        ("Where `ssl_zoo` is installed, which tells transformers about the model:", own),
        ("Without it, by the code in this repository (read it first):", remote),
    ]
    if loads_in_timm(config["architecture"], small_image_stem=config["small_image_stem"]):
        parts += [("As a plain timm model:", timm), ("By transformers' own wrapper of timm:", wrapper)]
    else:
        own_part = "stem for small images (`small_image_stem`)" if config["small_image_stem"] else "architecture"
        parts.append(
            (
                f"timm and transformers' `TimmWrapperModel` can't load this model: its {own_part} is none of theirs. "
                f"The two ways above work.",
                "",
            )
        )
    if config["pretraining_subfolder"]:
        parts.append((f"The full pretraining model (with {method}'s heads), with or without `ssl_zoo`:", full))
    return "\n\n".join(f"{words}\n\n{_fenced(code)}".strip() for words, code in parts)


def _fenced(code: str) -> str:
    return f"```python\n{textwrap.dedent(code).strip()}\n```" if code else ""
