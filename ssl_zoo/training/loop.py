"""The training loop. It knows no method by name."""

import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ssl_zoo.data.stream import Batch
from ssl_zoo.models.modeling_base import SSLForPreTraining
from ssl_zoo.training.checkpoint import list_checkpoints
from ssl_zoo.training.optim import learning_rate, set_learning_rate
from ssl_zoo.training.probe import probe
from ssl_zoo.training.recipe import Recipe
from ssl_zoo.training.session import Session, open_session
from ssl_zoo.training.stop import StopSignals
from ssl_zoo.training.watchdog import Watchdog, feature_rank


__all__ = ["NonFiniteLossError", "StoppedError", "train", "train_step"]


class NonFiniteLossError(FloatingPointError):
    """The loss or a weight became infinite or NaN."""


class StoppedError(Exception):
    """A signal ended the run early; a checkpoint was written."""


def train(recipe: Recipe) -> Path:
    """Train what a recipe says, or go on where it stopped; return the run's folder, with the model in `model/`.

    Raises:
        RecipeError: if recipe, processes and the run's folder don't fit together.
        DataError: if the data can't be read.
        NonFiniteLossError: if training diverged; names the step and the last good checkpoint.
        StoppedError: after SIGTERM or SIGINT, once the checkpoint is on disk.
    """
    session = open_session(recipe)
    config, plan, accelerator, core = recipe.train, session.plan, session.accelerator, session.core
    watchdog = Watchdog(core)
    batches: Iterator[Batch] = iter(session.loader)
    session.model.train()
    with StopSignals() as signals, session.log as log:
        while session.step < plan.stop_step:
            step = session.step + 1
            logged = step == 1 or step % config.log_every_steps == 0 or step == plan.stop_step
            seen, now = session.step * config.global_batch_size, session.now()
            if news := core.before_step(session.passes, images_seen=seen, **now):
                log.metrics(step, news)
            micro_batches = list(islice(batches, accelerator.gradient_accumulation_steps))
            outputs = train_step(session, micro_batches, diagnostics=logged)

            # One small all-reduce a step: every process learns the mean loss and takes the same decisions.
            local = torch.stack([output.loss.detach().float() for output in outputs])
            log.trace(step, micro_batches, local)
            asked = torch.tensor(float(signals.received is not None), device=local.device)
            loss, stopping = accelerator.reduce(torch.stack([local.mean(), asked]), "mean").tolist()
            if not math.isfinite(loss):
                raise NonFiniteLossError(_diverged(session, f"the loss became {loss} at step {step}"))
            if logged:
                rate = session.optimizer.param_groups[0]["lr"]
                metrics = {"loss": loss, "learning_rate": rate, "epoch": session.now()["epoch"]}
                metrics |= _scalars(session, outputs[-1])
                metrics["effective_rank"] = feature_rank(outputs[-1].embeddings)
                log.metrics(step, metrics)
                for symptom in watchdog.look(metrics):
                    log.say(f"step {step}: {symptom}", warning=True)
            if config.knn_every_epochs and session.crosses_epoch(config.knn_every_epochs):
                log.metrics(step, {"knn_top1": probe(session)})
            log.advance()
            if stopping or step % config.checkpoint_every_steps == 0 or step == plan.stop_step:
                if not all(bool(parameter.isfinite().all()) for parameter in core.parameters()):
                    raise NonFiniteLossError(_diverged(session, f"a weight became infinite or NaN at step {step}"))
                checkpoint = session.save_checkpoint()
                if stopping and step < plan.stop_step:
                    raise StoppedError(f"stopped at step {step} of {plan.stop_step}; '{checkpoint}' is complete")
        session.save_model()
    return session.run


def train_step(session: Session, batches: list[Batch], *, diagnostics: bool) -> list[Any]:
    """Do one step of the optimiser, and of the state that isn't trained by gradients.

    Args:
        session (`Session`): Moves on by one step.
        batches (list of `Batch`): This process's micro-batches, as many as the plan has accumulation steps.
        diagnostics (`bool`): Whether the outputs are to hold more than the loss.

    Returns:
        What the model's `forward` returned, one entry for each micro-batch.
    """
    recipe, accelerator, core, model = session.recipe, session.accelerator, session.core, session.model
    now = session.now()
    set_learning_rate(session.optimizer, learning_rate(recipe.optim, session.plan, session.step))
    outputs = []
    for batch in batches:
        with accelerator.accumulate(model):
            output = model(**session.to_device(batch), **now, diagnostics=diagnostics)
            _check_output(core, output, batch_size=len(batch.sample_ids), diagnostics=diagnostics)
            accelerator.backward(output.loss)
            if accelerator.sync_gradients:
                if recipe.optim.clip_grad_norm is not None:
                    accelerator.clip_grad_norm_(model.parameters(), recipe.optim.clip_grad_norm)
                core.before_optimizer_step(epoch=now["epoch"])
            session.optimizer.step()
            session.optimizer.zero_grad()
        outputs.append(output)
    session.consume(batches)
    session.step += 1
    if not accelerator.optimizer_step_was_skipped:
        core.update_state(outputs, **session.now())
    return outputs


def _check_output(core: SSLForPreTraining, output: Any, *, batch_size: int, diagnostics: bool) -> None:
    """Raise a TypeError that names class, field and expected shape unless this is what `SSLForPreTraining` returns."""
    name = f"`{type(output).__name__}` of {type(core).__name__}"
    shapes = {"loss": (), "embeddings": (batch_size, core.config.num_features)}
    for field in {**shapes, **output}:
        value = output.get(field)
        if not isinstance(value, torch.Tensor) or value.shape != shapes.get(field, value.shape):
            expected = f"a tensor of shape {shapes[field]}" if field in shapes else "a tensor or None"
            got = f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)
            raise TypeError(f"{name}: `{field}` must be {expected}, got {got}")
    if diagnostics and not any(value.ndim == 0 for field, value in output.items() if field != "loss"):
        raise TypeError(
            f"{name}: with diagnostics=True at least one field beside `loss` must be a tensor of shape (), got "
            f"{', '.join(output)}"
        )


def _scalars(session: Session, output: Any) -> dict[str, float]:
    """Average the output's scalar diagnostics over processes."""
    scalars = {name: value.float() for name, value in output.items() if value.ndim == 0 and name != "loss"}
    values = session.accelerator.reduce(torch.stack([value.detach() for value in scalars.values()]), "mean").tolist()
    return dict(zip(scalars, values, strict=True))


def _diverged(session: Session, what: str) -> str:
    good = list_checkpoints(session.run / "checkpoints")
    last = f"the last good checkpoint is '{good[-1]}'" if good else "no checkpoint had been written"
    return f"{what}; {last}. Lower `optim.learning_rate`, lengthen the warm-up, or set `optim.clip_grad_norm`"
