"""One member of an all-reduce: `python -m` this file reads whom to join from its standard input, and tells in JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

TENSOR_BYTES = {"gloo": 16 << 20, "nccl": 256 << 20}
NUM_REDUCES = 3


def reduce_among(question: Mapping[str, Any]) -> dict[str, Any]:
    """Joins the others, reduces, and says how quickly. Raises nothing: an error is told."""
    import torch
    import torch.distributed as dist

    backend, size = question["backend"], question["size"]
    where = f"tcp://{question['host']}:{question['port']}"
    try:
        uses_gpu = backend == "nccl"
        device = torch.device("cuda", question["rank"] % torch.cuda.device_count()) if uses_gpu else torch.device("cpu")
        dist.init_process_group(
            backend,
            init_method=where,
            rank=question["rank"],
            world_size=size,
            timeout=timedelta(seconds=question["join_s"]),
        )
        dist.all_reduce(torch.ones(1, device=device))
        latency_s = min(_timed(torch.ones(1, device=device)) for _ in range(10))
        num_bytes = TENSOR_BYTES[backend]
        seconds = min(_timed(torch.ones(num_bytes // 4, device=device)) for _ in range(NUM_REDUCES))
        dist.destroy_process_group()
    except Exception as error:  # noqa: BLE001  whatever torch raises is the finding
        words = " ".join(str(error).split())
        return {"error": words[:200] or type(error).__name__}
    return {"size": size, "latency_s": latency_s, "bytes_per_s": num_bytes * share(size) / seconds}


def _timed(tensor: torch.Tensor) -> float:
    import torch
    import torch.distributed as dist

    dist.barrier()
    began_s = time.perf_counter()
    dist.all_reduce(tensor)
    if tensor.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began_s


def share(size: int) -> float:
    """Bytes that a member of a ring sends for each one reduced: 2 (n - 1) / n, as in nccl-tests' bus bandwidth."""
    return 2.0 * (size - 1) / size


if __name__ == "__main__":
    print(json.dumps(reduce_among(json.load(sys.stdin))))  # noqa: T201  the answer
