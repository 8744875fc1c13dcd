"""Where and how the steps run: device, threads, compilation, and the optimiser."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from skvae.data.batch import Batch
from skvae.model.objectives import Objective
from skvae.model.vae import LatentVariableModel, Terms
from skvae.training.history import summed
from skvae.training.recording import NotRecordable, Recording, only_known_modules

# Below this many multiplications per step, handing work to a second thread costs more than it saves.
_THREADED_WORK = 5e7
# Steps timed before it is decided whether to compile.
_TIMED_STEPS = 100
# Seconds that compiling may cost, and the share of the remaining time that it then saves.
_COMPILE_COST, _COMPILE_GAIN = 40.0, 0.1


def choose_device(device: str | torch.device) -> torch.device:
    """The device that the parameter stands for; "auto" takes a GPU if there is one."""
    if device != "auto":
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def is_large(work: float) -> bool:
    """Whether a step of so many multiplications is mostly matrix products."""
    return work >= _THREADED_WORK


@contextlib.contextmanager
def threads_for(work: float) -> Iterator[int]:
    """Use one thread for small steps; yields their number. The caller's setting comes back afterwards.

    Parameters
    ----------
    work : float
        Multiplications per step.
    """
    before = torch.get_num_threads()
    if not is_large(work):
        torch.set_num_threads(1)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def has_short_products() -> bool:
    """Whether this processor multiplies matrices of bfloat16 in hardware, and torch can be told to use that."""
    in_hardware = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return hasattr(torch.backends.mkldnn, "matmul") and in_hardware()


@contextlib.contextmanager
def short_products(wanted: bool) -> Iterator[None]:
    """Round the factors of matrix products to bfloat16, where wanted; sums stay in float32.

    The rounding of each factor (2⁻⁹ of its value) is far below the noise of a minibatch; weights, activations,
    losses and the optimiser keep all their digits. The caller's setting comes back afterwards.
    """
    if not wanted:
        yield
        return
    backend: Any = torch.backends.mkldnn
    settings = backend.matmul
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


class Optimizer:
    """Adam on one flat vector that holds all parameters, with gradients clipped and bad steps skipped.

    One kernel updates everything, however many tensors the model has. A step whose gradient norm is not
    finite changes nothing, and neither reads a value back to the host: the norm goes to the fused kernel
    through the same two tensors that torch's own gradient scaler uses.

    Parameters
    ----------
    modules : sequence of Module
        Their parameters become views of the flat vector until `release`.
    max_norm : float
        Gradients are scaled down to this Euclidean norm.
    state : dict, optional
        Of an earlier optimiser over the same parameters, to continue from.
    leave : Module, optional
        A part of the modules whose parameters are left alone.
    averaging : float
        Share that a running mean of the weights, which `averaged` shows, keeps at each step, and less in the first
        steps (Polyak & Juditsky 1992, with a window); 0 for none.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        max_norm: float,
        state: dict[str, Any] | None = None,
        leave: nn.Module | None = None,
        averaging: float = 0.0,
    ) -> None:
        left = set() if leave is None else set(leave.parameters())
        every = [p for module in modules for p in module.parameters() if p.requires_grad]
        self.parameters = [p for p in every if p not in left]
        self.buffers = [b for module in modules for b in module.buffers()]
        self.flat = torch.cat([p.detach().flatten() for p in self.parameters])
        self.grad = torch.zeros_like(self.flat)
        self.max_norm = max_norm
        self.state = state or {
            "exp_avg": torch.zeros_like(self.flat),
            "exp_avg_sq": torch.zeros_like(self.flat),
            "step": torch.zeros((), device=self.flat.device),
        }
        self.averaging, self.n_averaged = averaging, 0
        self.average = self.flat.clone() if averaging else None
        start = 0
        for p in self.parameters:
            stop = start + p.numel()
            p.data = self.flat[start:stop].view_as(p)
            p.grad = self.grad[start:stop].view_as(p)
            start = stop
        self.gradients = [p.grad for p in self.parameters if p.grad is not None]  # views of `grad`

    def step(self, loss: Tensor, learning_rate: float) -> Tensor:
        """Differentiate and update; returns the gradient norm before clipping (a scalar on the device)."""
        self.grad.zero_()
        loss.backward()
        return self.update(learning_rate)

    def update(self, learning_rate: float) -> Tensor:
        """Update by what `grad` holds; returns its norm before clipping."""
        # A dot product would be quicker by itself, but MKL's threads and torch's get into each other's way.
        norm = torch.linalg.vector_norm(self.grad)
        # On the CPU a look costs nothing, and saves the kernel from writing the gradients back.
        may_clip = norm.device.type != "cpu" or not bool(norm <= self.max_norm)
        adam(
            [self.flat],
            [self.grad],
            [self.state["exp_avg"]],
            [self.state["exp_avg_sq"]],
            [],
            [self.state["step"]],
            fused=True,
            # The kernel divides the gradient by grad_scale, and does nothing where found_inf is 1.
            grad_scale=torch.clamp(norm / self.max_norm, min=1.0) if may_clip else None,
            found_inf=(norm < torch.inf).logical_not().float(),
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=learning_rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )
        if self.average is not None:
            self.n_averaged += 1
            # The weights at first are soon forgotten.
            kept = min(self.averaging, self.n_averaged / (self.n_averaged + 9))
            self.average.lerp_(self.flat, 1 - kept)
        return norm

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Within, the parameters are the running mean of those of the steps so far."""
        if self.average is None:
            yield
            return
        with torch.no_grad():
            last = self.flat.clone()
            self.flat.copy_(self.average)
            try:
                yield
            finally:
                self.flat.copy_(last)

    def snapshot(self) -> list[Tensor]:
        """A copy of all weights, and of the buffers: the user's own networks may normalise over batches."""
        return [tensor.clone() for tensor in (self.flat, *self.buffers)]

    @torch.no_grad()
    def restore(self, snapshot: list[Tensor]) -> None:
        """Go back to a snapshot."""
        for tensor, saved in zip((self.flat, *self.buffers), snapshot, strict=True):
            tensor.copy_(saved)

    def release(self) -> dict[str, Any]:
        """Give every parameter its own memory again; returns the state to continue from."""
        for p in self.parameters:
            p.data, p.grad = p.data.clone(), None
        return self.state


@dataclass(frozen=True)
class Inputs:
    """All that differs from step to step.

    Attributes
    ----------
    batch : Batch
    eps : Tensor [S, B, D]
    progress : Tensor, scalar
    prior_eps : Tensor [n, D] or None
    partners : Batch or None
        Another row for each of the batch, if the objective asks for them.
    partners_eps : Tensor [1, B, D] or None
        Noise for a draw of their latents.
    """

    batch: Batch
    eps: Tensor
    progress: Tensor
    prior_eps: Tensor | None = None
    partners: Batch | None = None
    partners_eps: Tensor | None = None

    def tensors(self) -> list[Tensor | None]:
        partners = [] if self.partners is None else vars(self.partners).values()
        return [self.eps, self.progress, self.prior_eps, self.partners_eps, *vars(self.batch).values(), *partners]

    @classmethod
    def from_tensors(cls, tensors: Sequence[Any]) -> Inputs:
        eps, progress, prior_eps, partners_eps, *batches = tensors
        n = len(fields(Batch))
        batch, *partners = (Batch(*batches[start : start + n]) for start in range(0, len(batches), n))
        return cls(batch, eps, progress, prior_eps, partners[0] if partners else None, partners_eps)

    def chunks(self, n_rows: int) -> list[Inputs]:
        """Consecutive pieces of at most `n_rows` rows."""
        pieces = self.batch.chunks(n_rows)
        partners = [None] * len(pieces) if self.partners is None else self.partners.chunks(n_rows)
        return [
            replace(
                self,
                batch=piece,
                eps=self.eps[:, piece.index],
                partners=its_partners,
                partners_eps=None if self.partners_eps is None else self.partners_eps[:, piece.index],
            )
            for piece, its_partners in zip(pieces, partners, strict=True)
        ]

    def terms(self, model: LatentVariableModel) -> Terms:
        """What the model says of the batch."""
        terms = model(self.batch, self.eps, self.progress, prior_eps=self.prior_eps)
        if self.partners is not None:
            assert self.partners_eps is not None
            terms.partners = model.places(self.partners, self.partners_eps)
        return terms


class Steps:
    """Training steps: losses, gradients, updates.

    Each is run as it is, from a recording of the first one, or compiled, whichever is right and quickest.

    Parameters
    ----------
    model, objective : Module
    max_norm : float
        See `Optimizer`.
    n_steps : int
        How many are planned.
    compile : bool or "auto"
        "auto" compiles when what is left to run after some timed steps is worth it.
    state : dict, optional
        Of the optimiser of an earlier run, to continue from.
    short : bool
        Whether matrix products of the steps are those of `short_products`.
    averaging : float
        See `Optimizer`; of the model and the objective, less its player.

    Attributes
    ----------
    how : str
        "eager", "recorded" or "compiled".
    """

    def __init__(
        self,
        model: LatentVariableModel,
        objective: Objective,
        max_norm: float,
        n_steps: int,
        compile: bool | str,
        state: dict[str, Any] | None = None,
        short: bool = False,
        averaging: float = 0.0,
    ) -> None:
        self.model, self.objective, self.short = model, objective, short
        self.optimizer = Optimizer([model, objective], max_norm, state, objective.player, averaging)
        self.player = None if objective.player is None else Optimizer([objective.player], max_norm)
        self.how = "eager"
        self.compiled = "no" if compile is False else "no: not worth its time"
        self.names: list[str] = []
        self._n_steps, self._compile = n_steps, compile
        self._recording: Recording | None = None
        self._losses = self._compute
        self._done, self._start = 0, time.perf_counter()

    def __call__(self, inputs: Inputs, learning_rate: float) -> tuple[Tensor, Tensor]:
        """One step; returns the summary of `summed` and the gradient norm, both still on the device."""
        with short_products(self.short):
            return self._step(inputs, learning_rate)

    def _step(self, inputs: Inputs, learning_rate: float) -> tuple[Tensor, Tensor]:
        if self._done == 0:
            if self._compile is True:
                self._try_to_compile(inputs)
            if self.how == "eager":
                self._record(inputs)
        elif self._done == _TIMED_STEPS and self._compile == "auto":
            seconds_left = (time.perf_counter() - self._start) / self._done * (self._n_steps - self._done)
            if compiling_pays(seconds_left):
                self._try_to_compile(inputs)
        self._done += 1
        if self._recording is not None:
            if self._done > 1:
                self._recording(*inputs.tensors())
            summary = self._recording.results[0].clone()
            norm = self.optimizer.update(learning_rate)
            if self.player is not None:
                self.player.update(learning_rate)
            return summary, norm
        loss, player_loss, record = self._losses(inputs)
        self.names = list(record)
        norm = self.optimizer.step(loss, learning_rate)
        if self.player is not None and player_loss is not None:
            self.player.step(player_loss, learning_rate)
        return summed(record, inputs.batch.weight), norm

    def _compute(self, inputs: Inputs) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        batch = inputs.batch
        losses = self.objective(inputs.terms(self.model))
        loss = losses.loss if batch.weight is None else losses.loss * batch.weight
        return loss.mean(), None if losses.player is None else losses.player.mean(), losses.record()

    def _record(self, inputs: Inputs) -> None:
        """Replace the steps by a recording, where nothing but the data differs between them."""
        if inputs.eps.is_cuda or not only_known_modules(self.model, self.objective):
            return
        players = [self.optimizer] + ([] if self.player is None else [self.player])

        def gradients(*tensors: Tensor | None) -> list[Tensor | None]:
            step = Inputs.from_tensors(tensors)
            loss, player_loss, record = self._losses(step)
            self.names = list(record)
            found: list[Tensor | None] = []
            for player, its_loss in zip(players, (loss, player_loss), strict=False):
                found += torch.autograd.grad(its_loss, player.parameters, retain_graph=True, allow_unused=True)  # type: ignore[arg-type]
            return [*found, summed(record, step.batch.weight)]

        into = [view for player in players for view in player.gradients]
        try:
            self._recording = Recording(gradients, inputs.tensors(), into)
        except NotRecordable:
            return
        self.how = "recorded"

    def _try_to_compile(self, inputs: Inputs) -> None:
        """Compile the losses, if that works and is quicker in a trial."""

        def seconds(run: Callable[[], Any], repeats: int = 20) -> float:
            times = []
            for _ in range(repeats):
                start = time.perf_counter()
                run()
                times.append(time.perf_counter() - start)
            return sorted(times)[repeats // 2]

        def differentiate(losses: Callable[..., Any]) -> Callable[[], Any]:
            return lambda: losses(inputs)[0].backward()

        recording = self._recording
        now = differentiate(self._losses) if recording is None else lambda: recording(*inputs.tensors())
        before = self.optimizer.snapshot()  # of buffers, which some parts change at every step
        try:
            candidate = torch.compile(self._compute, dynamic=False)
            with torch.random.fork_rng(devices=range(torch.cuda.device_count())):  # dropout, in the trial
                seconds(differentiate(candidate), repeats=1)
                gain = seconds(now) / seconds(differentiate(candidate))
        except Exception as error:  # whatever the compiler's toolchain raises: eager gives the same numbers
            self.compiled = f"no: {type(error).__name__}: {error}".splitlines()[0][:200]
            return
        finally:
            self.optimizer.restore(before)
        if gain <= 1.0 and self._compile is not True:
            self.compiled = "no: tried, and not faster"
            return
        self._losses, self._recording = candidate, None
        self.how, self.compiled = "compiled", "yes"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.optimizer.release()
        if self.player is not None:
            self.player.release()


def compiling_pays(seconds_left: float) -> bool:
    """Whether what is left to run, timed without compilation, is worth a compilation."""
    return seconds_left * _COMPILE_GAIN > _COMPILE_COST
