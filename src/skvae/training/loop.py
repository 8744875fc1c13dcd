"""The training loop."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from skvae.data.batch import Batch
from skvae.exceptions import TrainingError
from skvae.model.objectives import Objective
from skvae.model.vae import LatentVariableModel
from skvae.training.engine import Inputs, Steps, has_short_products, is_large, threads_for
from skvae.training.history import History, Tally, summed
from skvae.training.progress import Progress
from skvae.training.randomness import Noise, open_uniform, random_mask, seeded_torch
from skvae.training.schedule import learning_rate_factor

Callback = Callable[[History, nn.Module], Any]

# Steps between two looks at the device, and the run of skipped steps that is a breakdown.
_LOOK_EVERY = 50
_VALIDATION_ROWS = 4096


@dataclass(frozen=True)
class Plan:
    """How to train.

    Attributes
    ----------
    max_epochs, batch_size : int
    learning_rate : float
        At its peak.
    decay : bool
        Whether it warms up and then falls to nearly zero over the planned steps.
    patience : int
        Epochs without a better validation bound after which training stops.
    max_norm : float
        Gradients are clipped to this Euclidean norm.
    masking : float
        Share of the rows of each step that lose random entries.
    averaging : float
        What is judged and kept is a running mean of the weights of all steps, in which earlier ones keep this share
        at each step; 0 for the weights of the last step.
    precision : {"auto", "float32"}
        Of the factors of matrix products in training; "auto" is bfloat16 for steps that are mostly made of them,
        where the processor has such products, and else float32.
    compile : bool or "auto"
    verbose : int
    """

    max_epochs: int
    batch_size: int
    learning_rate: float
    decay: bool = True
    patience: int = 20
    max_norm: float = 1e3
    masking: float = 0.0
    averaging: float = 0.0
    precision: str = "float32"
    compile: bool | str = "auto"
    verbose: int = 0


def fit(
    model: LatentVariableModel,
    objective: Objective,
    train: Batch,
    validation: Batch | None,
    plan: Plan,
    noise: Noise,
    *,
    column_names: Sequence[str] = (),
    callbacks: Sequence[Callback] = (),
    anew: bool = True,
    optimizer_state: dict[str, Any] | None = None,
) -> tuple[History, dict[str, Any]]:
    """Train in place; returns the history and the state of the optimiser.

    `anew` says that the model has not been trained before, `optimizer_state` is that of an earlier call.

    With validation rows, the weights of the epoch that is best by what the objective monitors, as a rule the
    unweighted bound, after its warm-up are restored at the end.

    Raises
    ------
    TrainingError
        If the gradient stays non-finite.
    """
    batch_size = min(plan.batch_size, len(train))
    n_batches = len(train) // batch_size  # whole ones; the rows left over differ from epoch to epoch
    n_steps = plan.max_epochs * n_batches
    n_warm_up = min(100, max(1, n_steps // 20)) if plan.decay else 0
    progress = torch.arange(n_steps, device=train.values.device) / n_steps
    history = History(info={"n_train": len(train), "n_validation": len(validation or ())})
    best_bound, best_epoch, best = -float("inf"), 0, None
    step = 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(seeded_torch(noise.seed))  # dropout draws from torch's global stream
        with torch.no_grad():
            if anew:
                model.prior.prepare(train)
            learned = copy.deepcopy(objective.state_dict())
            objective.prepare(model, train)
            if not anew:
                objective.load_state_dict(learned)
            held_out = None if validation is None else _freeze(validation, train, model, objective, plan, noise)
        n_weights = sum(p.numel() for p in model.parameters())
        work = batch_size * objective.n_draws * n_weights
        n_threads = stack.enter_context(threads_for(work))
        on_cpu = train.values.device.type == "cpu"
        short = plan.precision == "auto" and on_cpu and is_large(work) and has_short_products()
        run = stack.enter_context(
            Steps(model, objective, plan.max_norm, n_steps, plan.compile, optimizer_state, short, plan.averaging)
        )
        bar = stack.enter_context(Progress(plan.max_epochs, plan.verbose))
        history.info |= {
            "device": str(noise.device),
            "threads": n_threads,
            "precision": "bfloat16" if short else "float32",
        }
        start = time.perf_counter()
        tally = Tally()
        for epoch in range(1, plan.max_epochs + 1):
            model.train()
            tally.clear()
            its_progress = progress[step : step + n_batches]
            for inputs in _epoch(train, model, objective, plan, its_progress, noise.stream("epoch", epoch)):
                factor = learning_rate_factor(step, n_steps, n_warm_up) if plan.decay else 1.0
                summary, norm = run(inputs, plan.learning_rate * factor)
                tally.add(run.names, summary, norm)
                step += 1
                if step % _LOOK_EVERY == 0 or step % n_batches == 0:
                    tally.look()
                    if tally.skipped_in_a_row >= min(_LOOK_EVERY, n_steps):
                        first_bad = step - tally.skipped_in_a_row + 1
                        raise _breakdown(model, objective, inputs, first_bad, column_names)

            epoch_record = {
                "epoch": epoch,
                "step": step,
                "seconds": time.perf_counter() - start,
                "learning_rate": plan.learning_rate * factor,
                "skipped_steps": tally.skipped,
                **{f"train_{name}": value for name, value in tally.means().items()},
            }
            if held_out is not None:
                with run.optimizer.averaged():
                    means = evaluate(model, objective, held_out)
                    epoch_record |= {f"validation_{name}": value for name, value in means.items()}
                    # Before the end of the warm-up the posterior is still let off its KL, which flatters the bound.
                    if step >= objective.warm_up * n_steps and (found := objective.judge(means)) > best_bound:
                        best_bound, best_epoch = found, epoch
                        best = run.optimizer.snapshot()
            history.epochs.append(epoch_record)
            bar.advance(epoch_record)
            wishes = [bool(callback(history, model)) for callback in callbacks]  # every one is called
            if any(wishes):
                history.info["stopped"] = "callback"
                break
            if best_epoch and epoch - best_epoch >= plan.patience:
                history.info["stopped"] = "early"
                break
        else:
            history.info["stopped"] = "max_epochs"

        if best is None:
            with run.optimizer.averaged():
                best = run.optimizer.snapshot()
        run.optimizer.restore(best)
        history.info |= {
            "steps": run.how,
            "compiled": run.compiled,
            "best_epoch": best_epoch or epoch,
            "judged": best_bound if best_epoch else None,
            "n_steps": step,
        }
    model.eval()
    return history, run.optimizer.state


def _epoch(
    train: Batch,
    model: LatentVariableModel,
    objective: Objective,
    plan: Plan,
    progress: Tensor,
    stream: torch.Generator,
) -> Iterator[Inputs]:
    """The inputs of every step of an epoch; all randomness of the epoch is drawn here."""
    device = train.values.device
    batch_size = min(plan.batch_size, len(train))
    order = torch.randperm(len(train), generator=stream, device=device)
    for done, rows in zip(progress, order.split(batch_size), strict=False):
        batch = _as_seen(train.rows(rows), model, plan, stream)
        shape = (objective.n_draws, batch_size, model.n_noise)
        eps = torch.randn(shape, generator=stream, device=device)  # [S, B, D]
        partners = partners_eps = None
        if objective.has_partners:
            partners = _partners(train, objective.partners(rows, stream), model, stream)
            partners_eps = torch.randn((1, batch_size, model.latent_dim), generator=stream, device=device)
        yield Inputs(batch, eps, done, _prior_noise(model, objective, stream), partners, partners_eps)


def _as_seen(rows: Batch, model: LatentVariableModel, plan: Plan, stream: torch.Generator) -> Batch:
    """The rows as a step takes them: with values drawn, where they are probabilities, and entries hidden."""
    rows = _drawn(rows, model, stream)
    return rows.hide(random_mask((len(rows), model.n_columns), stream, plan.masking)) if plan.masking else rows


def _drawn(rows: Batch, model: LatentVariableModel, stream: torch.Generator) -> Batch:
    if not model.likelihood.draws_values:
        return rows
    u = open_uniform((len(rows), model.n_columns), stream)
    return replace(rows, values=model.likelihood.observe(rows.values, u))


def _partners(train: Batch, rows: Tensor, model: LatentVariableModel, stream: torch.Generator) -> Batch:
    """Training rows as partners of others: with all their entries, and without targets, which are not asked for."""
    return _drawn(replace(train, target=None).rows(rows), model, stream)


def _prior_noise(model: LatentVariableModel, objective: Objective, stream: torch.Generator) -> Tensor | None:
    if not objective.n_prior_draws:
        return None
    return torch.randn((objective.n_prior_draws, model.prior.n_noise), generator=stream, device=stream.device)


def _freeze(
    validation: Batch, train: Batch, model: LatentVariableModel, objective: Objective, plan: Plan, noise: Noise
) -> Inputs:
    """Validation rows with masks and noise that stay the same for all epochs."""
    stream = noise.stream("validation")
    device = validation.values.device
    seen = _as_seen(validation, model, plan, stream)
    shape = (len(validation), objective.n_draws, model.n_noise)
    eps = torch.randn(shape, generator=stream, device=device).transpose(0, 1)  # [S, n, D]
    prior_eps = _prior_noise(model, objective, stream)
    partners = partners_eps = None
    if objective.has_partners:
        partners = _partners(train, objective.partners_of_others(model, validation, stream), model, stream)
        partners_eps = torch.randn((1, len(validation), model.latent_dim), generator=stream, device=device)
    return Inputs(seen, eps, torch.ones((), device=device), prior_eps, partners, partners_eps)


@torch.no_grad()
def evaluate(model: LatentVariableModel, objective: Objective, rows: Inputs) -> dict[str, float]:
    """Weighted means over rows of the loss, the bound and every named term."""
    model.eval()
    tally = Tally()
    for piece in rows.chunks(max(1, _VALIDATION_ROWS // len(rows.eps))):
        record = objective(piece.terms(model)).record()
        tally.add(list(record), summed(record, piece.batch.weight), rows.progress)
    tally.look()
    return tally.means()


def _breakdown(
    model: LatentVariableModel,
    objective: Objective,
    inputs: Inputs,
    step: int,
    column_names: Sequence[str],
) -> TrainingError:
    """Find what is not finite in the last batch."""
    with torch.no_grad():
        terms = inputs.terms(model)
        losses = objective(terms).record()
        bad = [name for name, value in losses.items() if not torch.isfinite(value).all()]
        good_columns = torch.isfinite(terms.log_p_columns).all(0).all(0).tolist()
    columns = [name for name, good in zip(column_names, good_columns, strict=False) if not good]
    what = f"the term '{bad[-1]}' is" if bad else "the gradient is"
    # Once the latents have broken down, every column has.
    is_local = 0 < len(columns) < max(2, len(column_names))
    where = f" in column '{columns[0]}'" if is_local else " in no single column"
    return TrainingError(
        f"training broke down at step {step} and did not recover: {what} not finite{where}; lower "
        "learning_rate, or look for extreme values"
    )
