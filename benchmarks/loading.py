"""Loading: how long do `import ssl_zoo` and `AutoModel.from_pretrained` of a ResNet-50 take?

    python benchmarks/loading.py

Rivals: `import torch`, since nobody uses this package without it; for the weights `timm.create_model` and
`TimmWrapperModel` of transformers (which --quick leaves out), with the same values in files of their own. Whole
processes start from a cold interpreter with files that are in the page cache. Checked: the float64 sums of all weights
are the same; they are part of the work, so that a memory-mapped file is really read.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from pairing import Mismatch, Report, arguments
from safetensors.torch import save_file
from transformers import AutoModel, TimmWrapperConfig, TimmWrapperModel
from transformers.utils import logging

import ssl_zoo


IMPORT_AIM_SECONDS = 0.3

OURS = """
import ssl_zoo
from transformers import AutoModel
model = AutoModel.from_pretrained(FOLDER).timm_model
"""
TIMM = """
import timm
model = timm.create_model("resnet50", num_classes=0, checkpoint_path=FOLDER + "/timm.safetensors")
"""
TRANSFORMERS = """
from transformers import TimmWrapperModel
model = TimmWrapperModel.from_pretrained(FOLDER + "/wrapped").timm_model
"""
SUM = """
import torch
print(sum(float(tensor.double().sum()) for tensor in model.state_dict().values()))
"""


def write_models(folder: Path) -> None:
    """A ResNet-50 in our layout, in timm's and in that of transformers' own wrapper."""
    torch.manual_seed(0)
    model = ssl_zoo.MiraModel(ssl_zoo.MiraConfig(architecture="resnet50"))
    model.save_pretrained(folder)
    weights = {name: tensor.contiguous() for name, tensor in model.timm_model.state_dict().items()}
    save_file(weights, folder / "timm.safetensors")
    wrapped = TimmWrapperModel(TimmWrapperConfig(architecture="resnet50", num_labels=0, do_pooling=True))
    wrapped.timm_model.load_state_dict(weights)
    wrapped.save_pretrained(folder / "wrapped")


def weight_sum(model: torch.nn.Module) -> float:
    """Sum of all weights and buffers, which reads them all."""
    return sum(float(tensor.double().sum()) for tensor in model.state_dict().values())


def run(code: str, folder: Path, threads: int) -> float:
    """Run a program in a new interpreter; returns the number it prints, 0 if none."""
    text = f"FOLDER = {json.dumps(str(folder))}\n{code}"
    environment = {"OMP_NUM_THREADS": str(threads), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", text], check=True, capture_output=True, text=True, env={**os.environ, **environment}
    )
    return float(done.stdout or 0)


def same_sum(ours: float, results: dict[str, float]) -> str:
    """All sums are equal: the values are the same ones, added in the same order."""
    for name, value in results.items():
        if value != ours:
            raise Mismatch(f"the weights add up to {ours!r} in ours and to {value!r} in {name}")
    return f"weights add up to {ours:.6f} in all"


def measure(report: Report, folder: Path, options: argparse.Namespace) -> None:
    """The three rows of the table."""
    cold = 1 if options.quick else 7
    imports = report.pair(
        "import torch, then ssl_zoo (processes)",
        ours=lambda: run("import torch\nimport ssl_zoo", folder, options.threads),
        rivals={"import torch": lambda: run("import torch", folder, options.threads)},
        check=lambda ours, results: "nothing to compare",
        repeats=cold,
    )
    more = [ours - torch_alone for ours, torch_alone in zip(imports.ours, imports.rivals["import torch"], strict=True)]
    report.note(
        f"`import ssl_zoo` adds {sorted(more)[len(more) // 2]:+.3f} s to `import torch` (median of the pairs; aim "
        f"{IMPORT_AIM_SECONDS:+g} s): it loads no framework before a model is touched."
    )
    warm: dict[str, Callable[[], float]] = {
        "timm": lambda: weight_sum(
            timm.create_model("resnet50", num_classes=0, checkpoint_path=str(folder / "timm.safetensors"))
        ),
        "TimmWrapperModel": lambda: weight_sum(TimmWrapperModel.from_pretrained(folder / "wrapped").timm_model),
    }
    whole = {
        "timm": lambda: run(TIMM + SUM, folder, options.threads),
        "TimmWrapperModel": lambda: run(TRANSFORMERS + SUM, folder, options.threads),
    }
    if options.quick:
        del warm["TimmWrapperModel"], whole["TimmWrapperModel"]
    aims = {"timm": 1 / 1.3}
    report.pair(
        "ResNet-50, after the imports",
        ours=lambda: weight_sum(AutoModel.from_pretrained(folder).timm_model),
        rivals=warm,
        check=same_sum,
        aims=aims,
        repeats=15,
    )
    report.pair(
        "ResNet-50, whole process",
        ours=lambda: run(OURS + SUM, folder, options.threads),
        rivals=whole,
        check=same_sum,
        aims=aims,
        repeats=cold,
    )
    report.note(
        "Whole processes import torch and timm in any case; ours and TimmWrapperModel import transformers besides, "
        "half of whose time goes into scipy, for losses of detection models, and into the list of its own models."
    )


def main() -> None:
    """Measure."""
    options = arguments(__doc__)
    logging.disable_progress_bar()
    report = Report("loading", question="What do importing the package and loading weights take?", options=options)
    with tempfile.TemporaryDirectory() as folder:
        write_models(Path(folder))
        measure(report, Path(folder), options)
    report.finish()


if __name__ == "__main__":
    main()
