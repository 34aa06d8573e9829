"""What GPU runs rely on, as far as a CPU can test it; the table of docs/gpu.md names these tests."""

import pytest
import torch
import torch.distributed as dist

from ssl_zoo.functional.distributed import all_gather_rows
from ssl_zoo.training.build import build_model
from tests.models.test_all_methods import NUM_SAMPLES, Data
from tests.training.tiny_recipes import FIXTURES, ROOT, fixture_name, method_of, tiny
from tests.two_processes import run_in_two_processes


def build(path):
    recipe = tiny(path, images=ROOT, steps=4)
    return build_model(recipe, num_samples=NUM_SAMPLES, num_classes=3, num_labelled=24).train(), Data(recipe)


def take_steps(model, data, steps, *, offset=0):
    """Steps as the loop takes them, without an optimiser's; returns the last output."""
    for step in range(steps):
        now = {"epoch": step / 3, "progress": step / 4}
        model.before_step(data, images_seen=16 * step, **now)
        output = model(**data.batch(step + offset, model), **now, diagnostics=step == 0)
        output.loss.backward()
        model.before_optimizer_step(epoch=now["epoch"])
        model.update_state([output], progress=(step + 1) / 4, epoch=(step + 1) / 3)
    return output


# What ProcessGroupNCCL takes; it knows no int16, and refuses tensors that aren't contiguous.
NCCL_DTYPES = {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int8}
NCCL_DTYPES |= {torch.uint8, torch.bool}
COLLECTIVES = ("all_reduce", "all_gather", "all_gather_into_tensor", "broadcast")


def watch_collectives(process, path):
    """Each collective of two steps on this process: name, dtype, shape, and whether NCCL would take it."""
    calls, originals = [], {name: getattr(dist, name) for name in COLLECTIVES}

    def watched(name):
        def call(*arguments, **options):
            tensors = [tensor for given in arguments for tensor in (given if isinstance(given, list) else [given])]
            accepted = all(tensor.is_contiguous() and tensor.dtype in NCCL_DTYPES for tensor in tensors)
            calls.append((name, str(tensors[-1].dtype), tuple(tensors[-1].shape), accepted))
            return originals[name](*arguments, **options)

        return call

    try:
        for name in COLLECTIVES:
            setattr(dist, name, watched(name))
        model, data = build(path)
        take_steps(model, data, 2, offset=process)
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)
    return calls


@pytest.mark.parametrize("path", FIXTURES, ids=fixture_name)
def test_every_collective_is_one_that_nccl_takes_and_all_processes_make_the_same(path):
    first, second = run_in_two_processes(watch_collectives, path)
    assert [call for call in first + second if not call[-1]] == []
    assert first == second


def gather_both(process):
    """Rows of both processes: as many of each, different numbers, none, transposed, and numbers of other kinds."""
    even = torch.arange(4.0).view(2, 2) + 10 * process
    uneven = torch.full((1 + 2 * process, 3), process, dtype=torch.int64)
    return [
        all_gather_rows(even),
        all_gather_rows(even.T),
        all_gather_rows(uneven),
        all_gather_rows(uneven[: 2 * process] > 0),
        all_gather_rows(even[:0]),
    ]


def test_rows_of_all_processes_are_gathered_whatever_their_number_and_layout():
    own = [torch.arange(4.0).view(2, 2) + 10 * process for process in range(2)]
    uneven = torch.tensor([0, 1, 1, 1]).unsqueeze(1).expand(4, 3)
    expected = [torch.cat(own), torch.cat([rows.T for rows in own]), uneven, torch.ones(2, 3).bool(), own[0][:0]]
    for gathered in run_in_two_processes(gather_both):
        for found, wanted in zip(gathered, expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@pytest.fixture
def without_mkldnn():
    """On a CPU, oneDNN's bfloat16 gradient of a 1x1 convolution reads memory that nobody wrote: NaN now and then."""
    with torch.backends.mkldnn.flags(enabled=False):
        yield


@pytest.mark.usefixtures("without_mkldnn")
@pytest.mark.parametrize("path", FIXTURES, ids=fixture_name)
def test_a_step_under_bfloat16_autocast_has_a_float32_loss_and_gradients_near_those_without(path):
    losses, gradients = [], []
    for enabled in (False, True):
        torch.manual_seed(0)
        model, data = build(path)
        dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            model.before_step(data, images_seen=0, epoch=0.0, progress=0.0)
            output = model(**data.batch(0, model))
        output.loss.backward()
        model.update_state([output], progress=0.25, epoch=1 / 3)  # outside of autocast, as in the loop
        assert output.loss.dtype == torch.float32
        assert {name: tensor.dtype for name, tensor in model.state_dict().items()} == dtypes
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        assert {parameter.grad.dtype for parameter in trained} == {torch.float32}
        losses.append(output.loss.item())
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in trained]))
    assert losses[1] == pytest.approx(losses[0], rel=0.05, abs=0.05)
    assert torch.cosine_similarity(*gradients, dim=0) > 0.6  # narrow layers of 8 channels: about 0.8 to 0.99


COMPILED = [path for path in FIXTURES if method_of(path) == "byol"]


@pytest.mark.slow
@pytest.mark.parametrize("path", COMPILED, ids=fixture_name)
def test_a_compiled_step_equals_an_eager_one_and_is_not_compiled_anew_at_every_step(path):
    """By the backend `aot_eager`, which traces forward and backward as inductor does, and generates no code."""
    model, data = build(path)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(model, backend="aot_eager")
    for step in range(3):
        now = {"epoch": step / 3, "progress": step / 4}
        inputs = data.batch(step, model)
        eager = model(**inputs, **now, diagnostics=False).loss
        torch.testing.assert_close(compiled(**inputs, **now, diagnostics=False).loss, eager, rtol=1e-4, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] < 30


@pytest.mark.parametrize("path", FIXTURES, ids=fixture_name)
def test_synchronised_batch_norm_has_the_same_state_and_so_the_same_checkpoints(path):
    model, _ = build(path)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    after = converted.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    kinds = {type(module) for module in converted.modules()}
    assert not kinds & {torch.nn.BatchNorm1d, torch.nn.BatchNorm2d}
