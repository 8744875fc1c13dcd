"""Recording the tensor operations of a training step, and running them again without autograd.

A step of a small network spends most of its time on finding out what to do: Python calls modules, autograd
builds a graph, the allocator finds memory. All of that is the same at every step. So it is done once, and
watched; what is left is a list of operations on fixed memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

# What these return depends on the shapes of their tensors, not on the values.
_FACTORIES = {
    "aten::empty_like",
    "aten::full_like",
    "aten::new_empty",
    "aten::new_full",
    "aten::new_ones",
    "aten::new_zeros",
    "aten::ones_like",
    "aten::zeros_like",
}
_DEPENDS_ON_DATA = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_FROM_TORCH = ("skvae.", "torch.nn.")


class NotRecordable(Exception):
    """The operations of the next step may be others than those of this one."""


def only_known_modules(*modules: nn.Module) -> bool:
    """Whether all parts are the package's or torch's own, which do the same at every step.

    A module of the user's may count its calls or draw from Python's random numbers, which no recording shows.
    """
    return all(f"{type(part).__module__}.".startswith(_FROM_TORCH) for module in modules for part in module.modules())


@dataclass
class _Call:
    """One operation, the memory that it reads, and the memory that it writes."""

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any
    reads: set[int] = field(default_factory=set)
    makes: set[int] = field(default_factory=set)
    changes: set[int] = field(default_factory=set)

    @property
    def is_view(self) -> bool:
        return not self.changes and not self.makes

    @property
    def draws(self) -> bool:
        return torch.Tag.nondeterministic_seeded in self.function.tags


class _Watch(TorchDispatchMode):
    """Notes every operation below autograd, in the forward and the backward pass."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first use imports the compiler, which takes seconds

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Call] = []
        # Held, so that no address is used twice while the recording lasts.
        self.known: dict[int, torch.UntypedStorage] = {}
        self.made: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        if not (_DEPENDS_ON_DATA.isdisjoint(function.tags) or _looks_up(function, args)):
            raise NotRecordable(f"{function} depends on the values of the data")
        inputs = self._memory(args) | self._memory(tuple(kwargs.values()))
        outputs = self._memory(out)
        schema = function._schema
        given = dict(zip((argument.name for argument in schema.arguments), args, strict=False)) | kwargs
        written = [
            given[argument.name]
            for argument in schema.arguments
            if argument.alias_info is not None and argument.alias_info.is_write and argument.name in given
        ]
        call = _Call(function, args, kwargs, out, reads=inputs, changes=self._memory(written))
        call.makes = outputs - inputs
        if call.makes and outputs & inputs and not call.changes:
            raise NotRecordable(f"{function} returns new memory together with old")
        self.made |= call.makes
        self.calls.append(call)
        return out

    def _memory(self, tensors: Any) -> set[int]:
        found = set()
        for tensor in tree_flatten(tensors)[0]:
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.known[storage._cdata] = storage
                found.add(storage._cdata)
        return found


class Recording:
    """A function of tensors, called once and from then on repeated as a list of operations.

    Calling it copies the arguments to where the first ones were, repeats the operations, and leaves the results
    in the same places, where those of the first call lie from the start.

    Parameters
    ----------
    function : callable
        Takes the tensors of `inputs` (each a tensor or None) and returns a list of tensors (or None).
    inputs : sequence of Tensor or None
        Later calls bring tensors of the same shapes and types.
    into : sequence of Tensor
        Where the first results belong; they are written there, the others elsewhere.

    Attributes
    ----------
    results : list of Tensor
        Those that follow after the ones that went `into` somewhere; every call overwrites them.

    Raises
    ------
    NotRecordable
        If repeating the operations could give something else than the function would, or does give something
        else for `inputs`.
    """

    def __init__(
        self,
        function: Callable[..., Sequence[Tensor | None]],
        inputs: Sequence[Tensor | None],
        into: Sequence[Tensor] = (),
    ) -> None:
        self._inputs = [None if x is None else x.clone() for x in inputs]
        self._given = _present(self._inputs)
        watch = _Watch()
        with watch:
            returned = function(*self._inputs)
        with torch.no_grad():
            calls = _needed(watch, _memory_of(returned))
            plan = _Memory(watch, calls, returned, into)
            self.results = [plan.place(tensor) for tensor in _present(returned[len(into) :])]
            self._program = [_prepared(call, plan) for call in calls]
            self._copies = plan.copies
            pairs = [
                (target, source)
                for target, source in zip(
                    [*into, *self.results], [*returned[: len(into)], *_present(returned[len(into) :])], strict=True
                )
                if source is not None
            ]
            if any(call.changes or call.draws for call in calls):
                for target, source in pairs:  # not twice what leaves traces
                    target.copy_(source)
            else:
                self._run()
                if not all(torch.allclose(*pair, rtol=1e-3, atol=1e-6, equal_nan=True) for pair in pairs):
                    raise NotRecordable("repeated, the operations do not give the same")

    def __call__(self, *inputs: Tensor | None) -> None:
        for mine, given in zip(self._given, _present(inputs), strict=True):
            mine.copy_(given)
        self._run()

    @torch.no_grad()
    def _run(self) -> None:
        for function, args, kwargs in self._program:
            function(*args, **kwargs)
        for target, source in self._copies:
            target.copy_(source)


def _looks_up(function: Any, args: tuple[Any, ...]) -> bool:
    """Whether this is x[i] with whole numbers, whose result has the same shape for whatever numbers."""
    return function is torch.ops.aten.index.Tensor and all(i is None or i.dtype != torch.bool for i in args[1])


def _present(tensors: Sequence[Tensor | None]) -> list[Tensor]:
    return [tensor for tensor in tensors if tensor is not None]


def _memory_of(tensors: Sequence[Tensor | None]) -> set[int]:
    return {tensor.untyped_storage()._cdata for tensor in _present(tensors)}


def _needed(watch: _Watch, wanted: set[int]) -> list[_Call]:
    """The calls without views, without those whose result never changes and those that nobody asks for."""
    changed = set().union(*(call.changes for call in watch.calls))
    fixed: set[int] = set()
    varying = []
    for call in watch.calls:
        if call.is_view:
            continue
        reads = set() if call.function._schema.name in _FACTORIES else call.reads
        if call.changes or call.draws or not reads <= fixed or call.makes & changed:
            varying.append(call)
        else:
            fixed |= call.makes
    needed = []
    wanted = set(wanted)
    for call in reversed(varying):
        outlives = call.changes - watch.made  # memory from outside: parameters, buffers, counts
        if outlives or (call.changes | call.makes) & wanted:
            wanted |= call.reads
            needed.append(call)
    return needed[::-1]


class _Memory:
    """Where everything lies: memory is used again as soon as its contents are no longer needed."""

    def __init__(
        self, watch: _Watch, calls: list[_Call], returned: Sequence[Tensor | None], into: Sequence[Tensor]
    ) -> None:
        self.copies: list[tuple[Tensor, Tensor]] = []
        # By the address of recorded memory: the memory in its place, and how many bytes in.
        self._moved: dict[int, tuple[torch.UntypedStorage, Any]] = {}
        made = set().union(*(call.makes for call in calls))
        last = {key: i for i, call in enumerate(calls) for key in call.reads | call.makes | call.changes}
        keep = _memory_of(returned)
        late: list[tuple[Tensor, Tensor]] = []
        for tensor, target in zip(returned, into, strict=False):
            if tensor is None:
                continue
            key = tensor.untyped_storage()._cdata
            fills = tensor.numel() * tensor.itemsize == tensor.untyped_storage().nbytes()
            if key in made and key not in self._moved and fills and tensor.stride() == target.stride():
                self._moved[key] = (target.untyped_storage(), target.storage_offset() * target.itemsize)
            else:
                late.append((target, tensor))
        free: dict[int, list[torch.UntypedStorage]] = {}
        passing = made - keep
        for i, call in enumerate(calls):
            for key in [key for key in call.makes if key not in self._moved]:
                size = watch.known[key].nbytes()
                device = watch.known[key].device
                spare = free.get(size)
                self._moved[key] = (spare.pop() if spare else torch.UntypedStorage(size, device=device), 0)
            for key in (call.reads | call.makes | call.changes) & passing:
                if last[key] == i:
                    storage, _ = self._moved[key]
                    free.setdefault(storage.nbytes(), []).append(storage)
        self.copies = [(target, self.place(tensor)) for target, tensor in late]

    def place(self, tensor: Tensor) -> Tensor:
        """The tensor, in its new place."""
        moved = self._moved.get(tensor.untyped_storage()._cdata)
        if moved is None:
            return tensor.detach()
        storage, start = moved
        offset = tensor.storage_offset() + start // tensor.itemsize
        return tensor.detach().new_empty(0).set_(storage, offset, tensor.shape, tensor.stride())


def _prepared(call: _Call, plan: _Memory) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """The call on its new memory, writing its results where they belong."""
    args = tree_map_only(Tensor, plan.place, call.args)
    kwargs = tree_map_only(Tensor, plan.place, call.kwargs)
    if not call.makes:
        return call.function, args, kwargs
    out = tree_map_only(Tensor, plan.place, call.out)
    variant = _out_variant(call.function)
    if variant is not None and isinstance(out, Tensor) and not call.changes:
        name = next(argument.name for argument in variant._schema.arguments if argument.is_out)
        return variant, args, {**kwargs, name: out}

    def compute_and_copy(*args: Any, **kwargs: Any) -> None:
        fresh = tree_flatten(call.function(*args, **kwargs))[0]
        for target, source in zip(tree_flatten(out)[0], fresh, strict=True):
            if isinstance(target, Tensor):
                target.copy_(source)

    return compute_and_copy, args, kwargs


def _out_variant(function: Any) -> Any:
    """The overload that writes to given memory, if torch has one with the same arguments."""
    packet = function.overloadpacket
    wanted = [(argument.name, str(argument.type)) for argument in function._schema.arguments]
    for overload in packet.overloads():
        candidate = getattr(packet, overload)
        arguments = candidate._schema.arguments
        outs = [argument for argument in arguments if argument.is_out]
        if len(outs) == 1 and [(a.name, str(a.type)) for a in arguments if not a.is_out] == wanted:
            return candidate
    return None
