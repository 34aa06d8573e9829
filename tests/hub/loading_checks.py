"""One check for each way to load a published model; all compare numbers with the published model's.

They run in processes of their own, against a local Hub; `test_loading_matrix.py` starts these. Nothing here imports
`ssl_zoo` by itself: the group "without" runs where it can't be imported.
"""

import copy
import json
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    TimmWrapperModel,
    pipeline,
)

from tests.tolerances import SAME_NETWORK


@dataclass(frozen=True)
class Case:
    """A published model, and the outputs of the model that it was made from."""

    name: str
    repo: str
    """Id on the local Hub; its branch "other" has other weights, "<repo>-pickle" has only a pickle."""
    folder: Path
    """Holds the tensors of `expected`, the inputs of a training step, the state, the configuration, a classifier."""

    @cached_property
    def expected(self) -> dict[str, torch.Tensor]:
        """`images`, of them `last_hidden_state`, `pooler_output`, `stage_0`, ...; `other`, `logits` of the photo."""
        return load_file(self.folder / "expected.safetensors")

    @cached_property
    def images(self) -> torch.Tensor:
        return self.expected["images"]

    @cached_property
    def state(self) -> dict[str, torch.Tensor]:
        """What the pretraining model holds that is published."""
        return load_file(self.folder / "state.safetensors")

    @cached_property
    def config(self) -> dict[str, Any]:
        return json.loads((self.folder / "config.json").read_text())

    @cached_property
    def photo(self) -> Image.Image:
        return Image.open(self.folder / "photo.png").convert("RGB")

    def step(self) -> dict[str, Any]:
        """Arguments of a training step."""
        found: dict[str, Any] = {"views": []}
        for name, tensor in sorted(load_file(self.folder / "step.safetensors").items()):
            if name.startswith("views."):
                found["views"].append(tensor)
            else:
                found[name] = tensor
        return {**found, "epoch": 2.0, "progress": 0.5}

    def features_are_those(self, output: Any) -> None:
        """Whether a model's output for the images is the published model's, up to rounding."""
        same(output.pooler_output, self.expected["pooler_output"])
        same(output.last_hidden_state, self.expected["last_hidden_state"])


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Whether two networks with equal weights made them: memory-mapped weights lie where other kernels read them."""
    torch.testing.assert_close(found, expected, **SAME_NETWORK)


def near(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """Whether the difference of two tensors is small against the second."""
    assert found.shape == expected.shape, (found.shape, expected.shape)
    error = (found.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-12)
    assert error <= tolerance, f"relative error {error:.2e}"


def auto_config(case: Case) -> None:
    config = AutoConfig.from_pretrained(case.repo)
    assert config.num_features == case.expected["pooler_output"].shape[1]
    for name in ("model_type", "architecture", "model_args", "small_image_stem"):
        assert getattr(config, name) == case.config[name], name
    full = AutoConfig.from_pretrained(case.repo, subfolder="pretraining")
    ours = {"pretraining_subfolder", "auto_map", "architectures", "transformers_version", "dtype", "global_pool"}
    for name, value in case.config.items():
        if name not in ours and not name.startswith("num_classes") and name != "pretrained_cfg":
            assert getattr(full, name) == value, name


def auto_model(case: Case) -> None:
    model, report = AutoModel.from_pretrained(case.repo, output_loading_info=True)
    assert not model.training
    assert not any(report.values()), report
    case.features_are_those(model(case.images))


def auto_model_for_pretraining(case: Case) -> None:
    model = AutoModelForPreTraining.from_pretrained(case.repo)
    assert type(model).__name__.endswith("ForPreTraining")
    left_out = set(model._keys_to_ignore_on_save or [])
    found = {name: tensor for name, tensor in model.state_dict().items() if name not in left_out}
    assert found.keys() == case.state.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, case.state[name]), name
    assert all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())
    same(model.timm_model(case.images), case.expected["pooler_output"])
    if "pseudo_labels" in case.expected:
        labels, confidence = model.pseudo_labels(case.images)
        assert torch.equal(labels, case.expected["pseudo_labels"])
        same(confidence, case.expected["confidence"])


def auto_model_for_image_classification(case: Case) -> None:
    model = AutoModelForImageClassification.from_pretrained(case.repo, num_labels=5)
    head = model.classifier
    logits = F.linear(case.expected["pooler_output"], head.weight, head.bias)
    same(model(case.images).logits, logits)
    assert logits.shape == (len(case.images), 5)
    with pytest.raises(ValueError, match="num_labels"):  # no classifier was trained
        AutoModelForImageClassification.from_pretrained(case.repo)


def auto_image_processor(case: Case) -> None:
    pixels = AutoImageProcessor.from_pretrained(case.repo)(case.photo, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels[0], case.images[0], rtol=0, atol=1e-6)


def feature_pipeline(case: Case) -> None:
    extract = pipeline("image-feature-extraction", model=case.repo)
    features = torch.tensor(extract(case.photo, pool=True)[0])
    torch.testing.assert_close(features, case.expected["pooler_output"][0], rtol=1e-5, atol=1e-6)


def classification_pipeline(case: Case) -> None:
    answers = pipeline("image-classification", model=str(case.folder / "classifier"))(case.photo, top_k=None)
    found = {answer["label"]: answer["score"] for answer in answers}
    for label, score in enumerate(case.expected["logits"].softmax(dim=-1).tolist()):
        assert abs(found[f"class {label}"] - score) < 1e-6


def timm_model(case: Case) -> None:
    model = timm.create_model(f"hf-hub:{case.repo}", pretrained=True).eval()
    same(model(case.images), case.expected["pooler_output"])
    same(model.forward_features(case.images), case.expected["last_hidden_state"])


def timm_features_only(case: Case) -> None:
    model = timm.create_model(f"hf-hub:{case.repo}", pretrained=True, features_only=True).eval()
    stages = model(case.images)
    expected = [case.expected[name] for name in sorted(case.expected) if name.startswith("stage_")]
    assert len(stages) == len(expected) >= 4
    for stage, value in zip(stages, expected, strict=True):
        same(stage, value)


def timm_wrapper(case: Case) -> None:
    case.features_are_those(TimmWrapperModel.from_pretrained(case.repo)(case.images))


def remote_code(case: Case) -> None:
    trust = {"trust_remote_code": True}
    model = AutoModel.from_pretrained(case.repo, **trust)
    assert type(model).__module__.startswith("transformers_modules.")
    case.features_are_those(model(case.images))
    full = AutoModelForPreTraining.from_pretrained(case.repo, **trust)
    assert all(torch.equal(full.state_dict()[name], tensor) for name, tensor in case.state.items())
    classifier = AutoModelForImageClassification.from_pretrained(case.repo, num_labels=5, **trust)
    assert classifier(case.images).logits.shape == (len(case.images), 5)
    with pytest.raises(ValueError, match="trust_remote_code"):
        AutoModel.from_pretrained(case.repo, trust_remote_code=False)


def revision(case: Case) -> None:
    other = case.expected["other"]
    assert (other - case.expected["pooler_output"]).abs().max() > 1e-3
    same(AutoModel.from_pretrained(case.repo, revision="other")(case.images).pooler_output, other)
    full = AutoModelForPreTraining.from_pretrained(case.repo, revision="other")
    same(full.timm_model(case.images), other)
    case.features_are_those(AutoModel.from_pretrained(case.repo, revision="main")(case.images))


def half_precision(dtype: torch.dtype, tolerance: float) -> Callable[[Case], None]:
    """Features and buffers of a model that is loaded in a shorter type; images come in float32, as processors give."""

    def check(case: Case) -> None:
        model = AutoModel.from_pretrained(case.repo, dtype=dtype)
        assert {tensor.dtype for tensor in model.parameters()} == {dtype}
        output = model(case.images)
        assert output.pooler_output.dtype == dtype
        near(output.pooler_output, case.expected["pooler_output"], tolerance)
        full = AutoModelForPreTraining.from_pretrained(case.repo, dtype=dtype)
        near(full.timm_model(case.images.to(dtype)), case.expected["pooler_output"], tolerance)
        for name, tensor in full.named_buffers():
            if name not in case.state:  # of a bank or a table: empty
                empty = -1 if name.endswith(("labels", "ids")) else 0
                assert (tensor == empty).all(), name
            elif tensor.is_floating_point():
                near(tensor, case.state[name], tolerance)
            else:
                assert torch.equal(tensor, case.state[name]), name

    return check


def half_precision_loss(dtype: torch.dtype, tolerance: float) -> Callable[[Case], None]:
    """Loss of a training step in evaluation mode; both models start from an empty bank, if they have one."""

    def check(case: Case) -> None:
        losses = []
        for options in ({}, {"dtype": dtype}):
            model = AutoModelForPreTraining.from_pretrained(case.repo, **options)
            losses.append(model(**case.step(), diagnostics=False).loss.float())
        near(losses[1], losses[0], tolerance)

    return check


def device_map(case: Case) -> None:
    for places in ("auto", {"": "cpu"}):
        model = AutoModel.from_pretrained(case.repo, device_map=places)
        assert {str(tensor.device) for tensor in model.parameters()} == {"cpu"}
        case.features_are_those(model(case.images))
        full = AutoModelForPreTraining.from_pretrained(case.repo, device_map=places)
        assert all(torch.equal(full.state_dict()[name], tensor) for name, tensor in case.state.items())


def compiled(backend: str) -> Callable[[Case], None]:
    """One graph, without breaks."""

    def check(case: Case) -> None:
        torch._dynamo.reset()
        model = torch.compile(AutoModel.from_pretrained(case.repo), fullgraph=True, backend=backend)
        output = model(case.images)
        torch.testing.assert_close(output.pooler_output, case.expected["pooler_output"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(output.last_hidden_state, case.expected["last_hidden_state"], rtol=1e-4, atol=1e-5)

    return check


def onnx(case: Case) -> None:
    import onnxruntime

    model = AutoModel.from_pretrained(case.repo)
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter itself uses what torch has deprecated
        program = torch.onnx.export(
            model.timm_model, (case.images,), dynamo=True, dynamic_shapes=({0: batch},), verbose=False
        )
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    for rows in (slice(None), slice(0, 1), slice(0, 3)):
        found = session.run(None, {name: case.images[rows].numpy()})[0]
        torch.testing.assert_close(torch.from_numpy(found), case.expected["pooler_output"][rows], rtol=1e-4, atol=1e-5)


def _training_step(model: Any, step: Callable[[Any], torch.Tensor]) -> tuple[torch.Tensor, dict[str, Any], int]:
    """Loss; gradients and buffers after the step; bytes of activations that were kept for the backward pass."""
    kept = 0
    own = {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += 0 if tensor.data_ptr() in own else tensor.nbytes
        return tensor

    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = step(model)
    loss.backward()
    after: dict[str, Any] = {name: tensor.grad for name, tensor in model.named_parameters() if tensor.grad is not None}
    return loss, {**after, **dict(model.named_buffers())}, kept


def gradient_checkpointing(case: Case) -> None:
    steps: list[tuple[Any, Callable[[Any], torch.Tensor]]] = [
        (AutoModel, lambda model: model(case.images).pooler_output.square().mean()),
        (AutoModelForPreTraining, lambda model: model(**case.step(), diagnostics=False).loss),
    ]
    for auto_class, step in steps:
        model = auto_class.from_pretrained(case.repo).train()
        plain, twin = copy.deepcopy(model), copy.deepcopy(model)  # both in new memory, which kernels read alike
        twin.gradient_checkpointing_enable()
        assert twin.is_gradient_checkpointing
        (loss, after, kept), (same_loss, same_after, kept_less) = (
            _training_step(plain, step),
            _training_step(twin, step),
        )
        assert torch.equal(loss, same_loss)
        assert after.keys() == same_after.keys()
        assert sum(name.startswith(("timm_model.", "student_backbone.")) for name in after) > 8
        for name, tensor in after.items():
            assert torch.equal(tensor, same_after[name]), name
        assert kept_less < 0.9 * kept, (kept_less, kept)
        twin.gradient_checkpointing_disable()
        assert _training_step(twin, step)[2] == kept


def safetensors_only(case: Case) -> None:
    opened = []
    load, torch.load = torch.load, lambda *arguments, **options: opened.append(arguments) or {}
    try:
        case.features_are_those(AutoModel.from_pretrained(case.repo)(case.images))  # has a pickle beside
        for auto_class in (AutoModel, AutoModelForPreTraining, AutoModelForImageClassification):
            for options in ({}, {"use_safetensors": False}):
                with pytest.raises((OSError, ValueError), match="can run code"):
                    auto_class.from_pretrained(f"{case.repo}-pickle", num_labels=5, **options)
    finally:
        torch.load = load
    assert not opened
    assert not (case.folder / "opened").exists()


WITH: dict[str, Callable[[Case], None]] = {
    "`AutoConfig`": auto_config,
    "`AutoModel`": auto_model,
    "`AutoModelForPreTraining`": auto_model_for_pretraining,
    "`AutoModelForImageClassification`": auto_model_for_image_classification,
    "`AutoImageProcessor`": auto_image_processor,
    '`pipeline("image-feature-extraction")`': feature_pipeline,
    '`pipeline("image-classification")`, fine-tuned': classification_pipeline,
    "`revision=`": revision,
    "`dtype=torch.float16`": half_precision(torch.float16, 0.01),
    "float16: loss of a training step": half_precision_loss(torch.float16, 0.02),
    "`dtype=torch.bfloat16`": half_precision(torch.bfloat16, 0.05),
    "bfloat16: loss of a training step": half_precision_loss(torch.bfloat16, 0.1),
    '`device_map="auto"`, `{"": "cpu"}`': device_map,
    "`torch.compile`, one graph": compiled("aot_eager"),
    "`torch.compile`, inductor": compiled("inductor"),
    "ONNX, dynamic batch": onnx,
    "gradient checkpointing": gradient_checkpointing,
    "safetensors only": safetensors_only,
}
WITHOUT: dict[str, Callable[[Case], None]] = {
    '`timm.create_model("hf-hub:...")`': timm_model,
    "timm, `features_only=True`": timm_features_only,
    "`TimmWrapperModel`": timm_wrapper,
    "`trust_remote_code=True`, no `ssl_zoo`": remote_code,  # the last: it registers `alexnet_bn` with timm
}
"""Way to load -> check, for processes with and without `ssl_zoo`."""

STEM, ALEXNET, SEMI = "3x3 stem", "alexnet_bn", "CMSF semi"
_NO_STEM = "timm's ResNets have no 3x3 stem without max-pool: such weights load through `ssl_zoo` or remote code"
_NO_ALEXNET = "timm doesn't have `alexnet_bn`; `import ssl_zoo.nn.backbone` registers it"
LIMITS: dict[tuple[str, str], tuple[str, str]] = {
    **{(way, STEM): ("RuntimeError.*(conv1.weight|mismatched)", _NO_STEM) for way in list(WITHOUT)[:3]},
    **{(way, ALEXNET): ("Unknown model|not supported", _NO_ALEXNET) for way in list(WITHOUT)[:3]},
    ("gradient checkpointing", ALEXNET): (
        "ValueError.*no gradient checkpointing",
        "`alexnet_bn` has no blocks to recompute, and small activations",
    ),
}
"""Way and name of the model -> the error that it ends with, and why, in words for the table."""


def outcome(way: str, check: Callable[[Case], None], case: Case) -> str:
    """`yes`, or `no: <reason>` where the check ends with the error that is known of this way and model.

    Raises:
        AssertionError: if it fails otherwise.
    """
    error, reason = LIMITS.get((way, case.name), ("(?!)", ""))
    try:
        with torch.no_grad() if check is not gradient_checkpointing else torch.enable_grad():
            check(case)
    except Exception as found:
        if re.search(error, f"{type(found).__name__}: {found}", re.DOTALL):
            return f"no: {reason}"
        raise AssertionError(f"{way} fails for {case.name}") from found
    return "yes"


def main(folder: Path, group: str, plan: dict[str, list[str]]) -> None:
    """Write `[way, name, outcome]` for each way of a plan and each model that it's to be tried with, a line each."""
    if group == "with":
        import ssl_zoo  # noqa: F401
    torch.set_num_threads(1)
    entries = json.loads((folder / "cases.json").read_text())
    cases = [Case(entry["name"], entry["repo"], folder / entry["folder"]) for entry in entries]
    for way, check in {"with": WITH, "without": WITHOUT}[group].items():
        for case in cases:
            if case.name in plan.get(way, []):
                sys.stdout.write(json.dumps([way, case.name, outcome(way, check, case)]) + "\n")
