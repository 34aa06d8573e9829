"""What loading costs, what it refuses, and activations that are recomputed."""

import copy
import subprocess
import sys
import warnings
from functools import partial

import pytest
import timm
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModel, AutoModelForPreTraining

import ssl_zoo
from ssl_zoo.nn.backbone import create_backbone
from ssl_zoo.nn.memory_bank import Column, MemoryBank
from ssl_zoo.nn.recomputation import recompute_activations


TINY = {"channels": [8, 8, 8, 16], "layers": [1, 1, 1, 1]}
HEADS = {"projector_hidden_features": [16], "predictor_hidden_features": [16]}
WIDTHS = {"architecture": "resnet18", "model_args": TINY, **HEADS, "projection_features": 8}


def msf(**fields):
    return ssl_zoo.MsfForPreTraining(ssl_zoo.MsfConfig(**{**WIDTHS, "bank_size": 20, "num_neighbors": 2, **fields}))


MEMORY = """
import sys
import torch
from transformers import AutoModelForPreTraining
import ssl_zoo

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem"))) / 1024

torch.set_num_threads(1)
shape = {"architecture": "resnet18", "model_args": {"channels": [8, 8, 8, 16], "layers": [1, 1, 1, 1]}}
heads = {"projector_hidden_features": [16], "predictor_hidden_features": [16]}
heads |= {"projection_features": 1024, "num_neighbors": 2}
for name, fields in (("Msf", {}), ("Cmsf", {"num_samples": 9})):
    make = lambda size: getattr(ssl_zoo, f"{name}Config")(bank_size=size, **shape, **heads, **fields)
    folder = f"{sys.argv[1]}/{name}"
    getattr(ssl_zoo, f"{name}ForPreTraining")(make(9)).save_pretrained(folder)
    AutoModelForPreTraining.from_pretrained(folder)  # what loading takes but for the bank
    before = resident()
    made = getattr(ssl_zoo, f"{name}ForPreTraining")(make(262144))
    print(name, "made", resident() - before)
    made.save_pretrained(folder)
    del made
    loaded = AutoModelForPreTraining.from_pretrained(folder)
    print(name, "loaded", resident() - before)
    assert loaded.bank.embeddings.nbytes == 2**30
    rows = {key: torch.ones(65536, *column.shape) for key, column in loaded.bank.columns.items()}
    before = resident()
    loaded.bank.write_(**rows)
    print(name, "written", resident() - before)
    assert loaded.bank.embeddings[:65536].min() == 1 and not loaded.bank.embeddings[65536:65600].any()
    del loaded, rows
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident memory from /proc")
@pytest.mark.usefixtures("one_core")
def test_an_empty_bank_takes_no_memory(tmp_path):
    """1 GiB of embeddings, and in CMSF half as much again of earlier visits."""
    done = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {(line.split()[0], line.split()[1]): float(line.split()[2]) for line in done.stdout.splitlines()}
    for method in ("Msf", "Cmsf"):
        assert found[method, "made"] < 40, found  # MiB; labels and ids, which are -1, take 4
        assert found[method, "loaded"] < 40, found
        assert 250 < found[method, "written"] < 1100, found  # it counts written rows


@pytest.mark.parametrize("empty", [0.0, 0, -1, 0.5])
@pytest.mark.parametrize("size", [7, 300_000])
def test_large_columns_are_as_small_ones(size, empty):
    column = Column((3,), torch.int64 if isinstance(empty, int) else torch.float16, empty)
    bank = MemoryBank(size, 2, columns={"extra": column})
    assert bank.extra.shape == (size, 3)
    assert (bank.extra == empty).all()
    assert (bank.extra.dtype, bank.extra.is_contiguous()) == (column.dtype, True)
    twin = copy.deepcopy(bank)
    twin.extra[:2] = 4
    assert (bank.extra == empty).all()
    assert (MemoryBank(size, 2, columns={"extra": column}).extra == empty).all()  # memory of its own
    with torch.device("meta"):
        assert MemoryBank(size, 2, columns={"extra": column}).extra.is_meta


def test_a_bank_that_was_cast_can_be_written_to():
    model = msf().to(torch.bfloat16)
    assert model.bank.embeddings.dtype == torch.bfloat16
    views = [torch.randn(4, 3, 32, 32) for _ in range(2)]
    model.update_state([model(views)], progress=0.0, epoch=0.0)
    assert model.bank.num_filled == 4
    assert model(views).loss.isfinite()


def test_what_a_checkpoint_lacks_is_fresh_and_not_shared(tmp_path):
    """Buffers are replaced, so each must be in its place, of the right type, and no other module's."""
    model = msf().train()
    model([torch.randn(4, 3, 32, 32) for _ in range(2)])  # running statistics that aren't those of a new model
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(("target_", "bank."))}
    model.save_pretrained(tmp_path, state_dict=dict(state))
    loaded = AutoModelForPreTraining.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert (loaded.bank.labels == -1).all()
    assert loaded.bank.embeddings.dtype == torch.float32
    assert loaded.bank.num_filled == 0
    for target, online in (("target_backbone", "timm_model"), ("target_projector", "projector")):
        own, twin = getattr(loaded, target).state_dict(), getattr(loaded, online).state_dict()
        for name, tensor in own.items():
            assert torch.equal(tensor, twin[name]), name
            assert tensor.dtype == twin[name].dtype, name
            assert tensor.data_ptr() != twin[name].data_ptr(), name
    before = loaded.timm_model.bn1.running_mean.clone()
    loaded.target_backbone.bn1.running_mean.add_(1)
    assert torch.equal(loaded.timm_model.bn1.running_mean, before)


def test_pickles_are_not_opened(tmp_path, monkeypatch):
    model = msf()
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    monkeypatch.setattr(torch, "load", lambda *arguments, **options: pytest.fail("a pickle was opened"))
    for load in (AutoModel.from_pretrained, AutoModelForPreTraining.from_pretrained):
        with pytest.raises(OSError, match=r"no file named model\.safetensors"):
            load(tmp_path)
        with pytest.raises(ValueError, match="`use_safetensors=False` would open a pickle"):
            load(tmp_path, use_safetensors=False)


def step(model, views):
    """Loss, gradients and buffers of a training step; and how many values were kept for the backward pass."""
    kept = []
    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t):
        loss = model(views).loss
    loss.backward()
    gradients = {name: tensor.grad for name, tensor in model.named_parameters() if tensor.grad is not None}
    return {"loss": loss, **gradients, **dict(model.named_buffers())}, sum(kept)


@pytest.mark.parametrize(
    ("architecture", "model_args"),
    [
        ("resnet18", TINY),
        ("vit_tiny_patch16_224", {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 32}),
        ("test_efficientnet", {"drop_path_rate": 0.5}),  # timm's own kind of batch norm
    ],
)
def test_recomputing_changes_nothing_but_memory(architecture, model_args):
    model = msf(architecture=architecture, model_args=model_args).train()
    twin = copy.deepcopy(model)
    views = [torch.randn(4, 3, 32, 32) for _ in range(2)]
    twin.activation_checkpointing_enable()
    for _ in range(2):
        (expected, kept), (found, kept_less) = step(model, views), step(twin, views)
        assert kept_less < kept
        assert expected.keys() == found.keys()
        for name, tensor in expected.items():
            assert torch.equal(tensor, found[name]), name
    twin.activation_checkpointing_disable()
    assert not twin.is_activation_checkpointing
    assert step(twin, views)[1] == kept
    assert {module.momentum for module in twin.modules() if isinstance(module, nn.BatchNorm2d)} <= {0.1}


def test_only_what_is_trained_is_recomputed():
    model = ssl_zoo.MiraForPreTraining(
        ssl_zoo.MiraConfig(
            architecture="resnet18",
            model_args=TINY,
            projector_hidden_features=[16],
            projection_features=8,
            num_prototypes=9,
        )
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers' older name for it
        model.gradient_checkpointing_enable()
    assert model.student_backbone.grad_checkpointing
    assert not model.timm_model.grad_checkpointing


def test_batch_norm_outside_a_backward_pass_counts_as_ever():
    backbone = create_backbone("resnet18", model_args=TINY)
    recompute_activations(backbone, enable=True)
    recompute_activations(backbone, enable=True)  # a second call changes nothing
    assert len(backbone.bn1._forward_pre_hooks) == 1
    with torch.no_grad():
        for count in (1, 2):
            backbone(torch.randn(2, 3, 32, 32))
            assert backbone.layer1[0].bn1.num_batches_tracked == count


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"every_n_layers": 2}, "got every_n_layers=2"),
        ({"offload": True}, "got offload=True"),
        ({"activation_checkpointing_kwargs": {"use_reentrant": True}}, "got use_reentrant=True"),
        ({"activation_checkpointing_kwargs": {"use_reentrant": False, "debug": True}}, "got debug=True"),
    ],
)
def test_options_that_timm_lacks_are_refused(options, words):
    model = msf()
    with pytest.raises(ValueError, match=words):
        model.activation_checkpointing_enable(**options)
    assert not model.is_activation_checkpointing
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    model._set_gradient_checkpointing(True, partial(checkpoint, use_reentrant=False))


def test_an_architecture_that_cannot_is_named():
    backbone = timm.create_model("dla46_c", num_classes=0)
    with pytest.raises(ValueError, match="not possible with a DLA: timm has none"):
        recompute_activations(backbone, enable=True)
    with pytest.raises(ValueError, match="not possible with a Linear"):
        recompute_activations(nn.Linear(2, 2), enable=True)
