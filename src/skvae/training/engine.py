"""Where and how the steps run: device, threads, compilation, and the optimiser."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

# Below this many multiplications per step, handing work to a second thread costs more than it saves.
_THREADED_WORK = 5e7
# Seconds that compiling may cost, and the share of the remaining time that it then saves.
_COMPILE_COST, _COMPILE_GAIN = 25.0, 0.25


def choose_device(device: str | torch.device) -> torch.device:
    """The device that the parameter stands for; "auto" takes a GPU if there is one."""
    if device != "auto":
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextlib.contextmanager
def threads_for(work: float) -> Iterator[int]:
    """Use one thread for small steps; yields their number. The caller's setting comes back afterwards.

    Parameters
    ----------
    work : float
        Multiplications per step.
    """
    before = torch.get_num_threads()
    if work < _THREADED_WORK:
        torch.set_num_threads(1)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


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
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        max_norm: float,
        state: dict[str, Any] | None = None,
        leave: nn.Module | None = None,
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
        start = 0
        for p in self.parameters:
            stop = start + p.numel()
            p.data = self.flat[start:stop].view_as(p)
            p.grad = self.grad[start:stop].view_as(p)
            start = stop

    def step(self, loss: Tensor, learning_rate: float) -> Tensor:
        """Differentiate and update; returns the gradient norm before clipping (a scalar on the device)."""
        self.grad.zero_()
        loss.backward()
        norm = torch.linalg.vector_norm(self.grad)
        adam(
            [self.flat],
            [self.grad],
            [self.state["exp_avg"]],
            [self.state["exp_avg_sq"]],
            [],
            [self.state["step"]],
            fused=True,
            # The kernel divides the gradient by grad_scale, and does nothing where found_inf is 1.
            grad_scale=torch.clamp(norm / self.max_norm, min=1.0),
            found_inf=(norm < torch.inf).logical_not().float(),
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=learning_rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )
        return norm

    def snapshot(self) -> list[Tensor]:
        """A copy of all weights, and of the buffers: the user's own networks may normalise over batches."""
        return [tensor.clone() for tensor in (self.flat, *self.buffers)]

    def restore(self, snapshot: list[Tensor]) -> None:
        """Go back to a snapshot."""
        for tensor, saved in zip((self.flat, *self.buffers), snapshot, strict=True):
            tensor.copy_(saved)

    def release(self) -> dict[str, Any]:
        """Give every parameter its own memory again; returns the state to continue from."""
        for p in self.parameters:
            p.data, p.grad = p.data.clone(), None
        return self.state


def compiling_pays(seconds_left: float) -> bool:
    """Whether what is left to run, timed without compilation, is worth a compilation."""
    return seconds_left * _COMPILE_GAIN > _COMPILE_COST


def compiled(function: Callable[..., Any], example: tuple[Any, ...]) -> tuple[Callable[..., Any], str]:
    """The function compiled, or itself where that fails or gains nothing; and "yes" or the reason why not.

    Parameters
    ----------
    example : tuple
        Arguments for trial runs, forward and backward; the first is what triggers the compilation.
    """

    def seconds(candidate: Callable[..., Any], runs: int = 20) -> float:
        times = []
        for _ in range(runs):
            start = time.perf_counter()
            candidate(*example)[0].backward()
            times.append(time.perf_counter() - start)
        return sorted(times)[runs // 2]

    try:
        candidate = torch.compile(function, dynamic=False)
        seconds(candidate, runs=1)
        gain = seconds(function) / seconds(candidate)
    except Exception as error:  # whatever the compiler's toolchain raises: eager gives the same numbers
        return function, f"no: {type(error).__name__}: {error}".splitlines()[0][:200]
    return (candidate, "yes") if gain > 1.0 else (function, "no: tried, and not faster")
