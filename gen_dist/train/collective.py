"""What the workers of a run say to each other beside what DeepSpeed does: means, agreement, small things."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Team:
    """This worker among the others. Every call is collective: all workers make it, in the same order."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.size = dist.get_world_size() if dist.is_initialized() else 1

    @property
    def leads(self) -> bool:
        """Whether this is the worker that writes and speaks for all."""
        return self.rank == 0

    def mean(self, value: Tensor) -> Tensor:
        """Mean over the workers, without a gradient; in place of the sum of one, the value itself."""
        if self.size == 1:
            return value.detach()
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.size

    def rows(self, value: Tensor) -> Tensor:
        """Rows (B, ...) of all workers without a gradient, one's own first, then those of the ranks that follow."""
        if self.size == 1:
            return value.detach()
        found = [torch.empty_like(value) for _ in range(self.size)]
        dist.all_gather(found, value.detach().contiguous())
        return torch.cat([*found[self.rank :], *found[: self.rank]])

    def any(self, flag: bool) -> bool:
        """Whether the flag is up on any worker."""
        if self.size == 1:
            return flag
        up = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(up)
        return bool(up.item() > 0)

    def gather(self, value: Any) -> list[Any]:
        """The value of each worker, by rank, on every worker. For small things: it goes through pickle."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Until all workers are here."""
        if self.size > 1:
            dist.barrier()
