"""Where a model comes from, as its card tells it: the training run, or the authors' release that was converted."""

import re
from typing import Any

from ssl_zoo.hub.results import NOT_MEASURED


def render_training(recipe: dict[str, Any], metrics: list[dict[str, Any]]) -> str:
    """Tell how a run trained, from its recipe and its log.

    Args:
        recipe (`dict`): The resolved recipe, free of this machine's paths.
        metrics (`list[dict]`): Lines of `metrics.jsonl`, may be empty.

    Returns:
        `str`: Markdown.
    """
    data, train = recipe.get("data") or {}, recipe.get("train") or {}
    path, revision = data.get("path"), data.get("revision")
    local = " (a local folder)" if path and not re.fullmatch(r"[\w.-]+/[\w.-]+|embedded", path) else ""
    seen = metrics[-1].get("images_seen") if metrics else None
    seconds = _training_seconds(metrics)
    rows = [
        ("data", f"`{path}`{local}, split `{data.get('split')}`"),
        ("revision of the data", f"`{revision}`" if revision else "not pinned"),
        (
            "planned",
            f"{train.get('epochs')} epochs, {train.get('global_batch_size')} images a step, seed {train.get('seed')}",
        ),
        ("images seen", f"{seen:,}" if seen is not None else NOT_MEASURED),
        ("time in training steps", f"{_duration(seconds)}, from the logged throughput" if seconds else NOT_MEASURED),
        ("log", "`metrics.jsonl`" if metrics else "none"),
    ]
    where = (
        f"\n\nSet `data.path` to your copy of `{path}` first: it was a folder on the machine that trained."
        if local
        else ""
    )
    return (
        f"{_table(rows)}\n\nEvery value that the run used is in [`recipe.yaml`](recipe.yaml). To train again, in a "
        f"checkout of `ssl_zoo`:\n\n```bash\naccelerate launch recipes/train.py recipe.yaml\n```{where}"
    )


def _training_seconds(metrics: list[dict[str, Any]]) -> float:
    """Add up the time of the logged steps: each line with a throughput gives it since the line before."""
    total, last = 0.0, 0
    for line in metrics:
        throughput = line.get("images_per_second")
        if throughput:
            total += (line["images_seen"] - last) / throughput
            last = line["images_seen"]
    return total


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes:.1f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def render_conversion(conversion: dict[str, Any]) -> str:
    """Tell which file was converted, by what, and what of it isn't in here.

    Args:
        conversion (`dict`): `conversion.json`.

    Returns:
        `str`: Markdown.
    """
    source, branch = conversion["source"], branch_of(conversion)
    rows = [
        ("file of the release", f"`{source['file']}`, {source['bytes']:,} bytes"),
        ("its SHA-256", f"`{source['sha256']}`"),
        ("from", source.get("url") or "not recorded"),
        ("layout", conversion["layout"] + (f", the {branch}'s branch in the root" if branch else "")),
        ("epoch", str(source["epoch"]) if source.get("epoch") is not None else "not recorded in the file"),
        *((f"SHA-256 of `{name}`", f"`{file['sha256']}`") for name, file in (conversion.get("result") or {}).items()),
        ("converted by", f"`{conversion.get('command') or 'not recorded'}`"),
        ("commit of ssl_zoo", f"`{conversion.get('commit') or 'not recorded'}`"),
        ("on", str(conversion.get("date") or "not recorded")),
    ]
    left_out = [f"- `{name}`: {why}" for name, why in (conversion.get("left_out") or {}).items()]
    parts = [
        "The numbers in the weights are the authors'; only their names and places have changed.",
        _table(rows),
        *(["Not carried over:\n\n" + "\n".join(left_out)] if left_out else []),
        *([conversion["notes"].strip()] if conversion.get("notes") else []),
        "To convert it yourself, in a checkout of `ssl_zoo` (see `docs/converting.md`):\n\n```bash\npython "
        f"recipes/convert.py {conversion.get('entry') or conversion['method']} {source['file']} OUT"
        + (f" --branch {branch}" if branch in ("student", "target") else "")
        + "\n```",
    ]
    return "\n\n".join(parts)


def branch_of(conversion: dict[str, Any]) -> str | None:
    """Which of the release's networks the root holds, such as `teacher`; `None` where there is but one."""
    branch = conversion["branch"]
    return None if branch == "backbone" else str(branch)


def render_licence(conversion: dict[str, Any] | None) -> str:
    """State the licence of code and weights, as it is.

    Args:
        conversion (`dict`, *optional*): `conversion.json`; `None` for a model that ssl_zoo's recipes trained.

    Returns:
        `str`: Markdown.
    """
    if conversion is None:
        return "Apache-2.0, code and weights. The licence of the training images is their publisher's."
    stated = conversion["license"]
    if stated["id"]:
        return (
            f"The weights are the authors', under {stated['name']} ({stated['where']}). The code beside them is "
            f"ssl_zoo's, under Apache-2.0."
        )
    permitted = conversion.get("published_with_permission")
    return (
        f"**The authors' release ({stated['where']}) states no licence**, so the rights to the weights are the "
        f"authors' alone. They were converted on the machine of whoever made this copy: ask the authors before you "
        f"pass it on. The code beside them is ssl_zoo's, under Apache-2.0."
        + (
            f"\n\nWhoever published it here declared on {permitted} to have the authors' permission."
            if permitted
            else ""
        )
    )


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
