"""Meter: what the operators of a stretch of code allocate, compute and move, counted on tensors that hold no data."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten


def _flops_behind_a_convolution(gradient: Tensor, x: Tensor, weight: Tensor, *options: Any, out_val: Any) -> int:
    """As many for each of two gradients as the convolution took; torch counts a grouped one's once for each group."""
    *_, transposed, _, _, wanted = options
    pixels = math.prod((x if transposed else gradient).shape[2:])
    return sum(wanted[:2]) * 2 * len(x) * pixels * weight.numel()


# Tensors here say that they are on a CPU, so attention takes the CPU's kernel. It keeps what a GPU's flash attention
# keeps, and does the same arithmetic.
_FLOPS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    aten.convolution_backward: _flops_behind_a_convolution,
    aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[aten._scaled_dot_product_flash_attention],
    aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        aten._scaled_dot_product_flash_attention_backward
    ],
}
# Kernels of convolutions want channels last or in blocks (cuDNN's for tensor cores, oneDNN's), and copy what is not.
_REORDERS = (aten.convolution, aten.convolution_backward)
_ASKED_FOR_A_NUMBER = (aten._local_scalar_dense.default, aten.item.default)


class Meter(TorchDispatchMode):
    """Counts within its context, which must lie within that of a FakeTensorMode."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.moved_bytes = 0
        """Read and written by kernels, as if nothing were fused or cached."""
        self.num_kernels = 0
        """Operators that compute something, views left out."""
        self._events: list[tuple[int, int]] = []  # (allocation, bytes more or less), in order
        self._alive: dict[int, int] = {}  # storage -> allocation
        self._allocations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        """One operator."""
        if func in _ASKED_FOR_A_NUMBER:
            return _some_number(args[0].dtype)
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        written = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        known = {_storage(tensor) for tensor in read}
        fresh = [tensor for tensor in written if _storage(tensor) not in known]
        for tensor in fresh:
            self._allocated(tensor)
        if func._overloadpacket in _REORDERS:
            self._scratch([*read, *written[:1]] if func._overloadpacket is aten.convolution else read)
        if fresh or func._schema.is_mutable:
            self.num_kernels += 1
            self.moved_bytes += sum(tensor.numel() * tensor.element_size() for tensor in (*read, *written))
        formula = _FLOPS.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=result)
        return result

    def peak_bytes(self, without: Iterable[Tensor] = ()) -> int:
        """The most that was allocated at once, and not yet when counting began; leaving out some tensors."""
        left_out = {self._alive.get(_storage(tensor)) for tensor in without}
        now = peak = 0
        for allocation, change in self._events:
            if allocation not in left_out:
                now += change
                peak = max(peak, now)
        return peak

    def _scratch(self, tensors: Sequence[Tensor]) -> None:
        """What a kernel allocates and frees again: copies of what it reads and writes, in a layout of its own.

        What is not contiguous is made so first.
        """
        copies = [(1 if tensor.is_contiguous() else 2) * tensor.numel() * tensor.element_size() for tensor in tensors]
        num_bytes = sum(copies)
        self._allocations += 1
        self._events += [(self._allocations, num_bytes), (self._allocations, -num_bytes)]

    def _allocated(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._alive:
            return
        self._allocations += 1
        self._alive[storage._cdata] = self._allocations
        self._events.append((self._allocations, storage.nbytes()))
        weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())

    def _freed(self, storage: int, num_bytes: int) -> None:
        self._events.append((self._alive.pop(storage), -num_bytes))


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _some_number(dtype: torch.dtype) -> bool | int | float:
    """What a tensor without data answers where code asks for its value: the first class, no caption dropped."""
    if dtype == torch.bool:
        return False
    return 0.5 if dtype.is_floating_point else 0
