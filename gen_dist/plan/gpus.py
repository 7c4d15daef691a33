"""GPUS: what each GPU can hold and do, by its datasheet; `find_gpu` with the likely one where a name is mistyped.

Memory is the datasheet's number in units of 10^9 bytes, which is a little less than what the driver reports. FLOP/s are
without sparsity: of the tensor cores in bf16, of the plain cores in fp32. A link counts one direction. The network is
no property of a GPU: it is that of the machine named with it, divided by its GPUs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gen_dist.job.problem import choose
from gen_dist.plan.errors import PlanError

GBIT = 1e9 / 8  # bytes
PCIE_4, PCIE_5 = 32e9, 64e9  # bytes/s of 16 lanes, one direction


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU, in the machine that usually holds it."""

    name: str
    memory_bytes: int
    bf16_flops_per_s: float
    fp32_flops_per_s: float
    memory_bytes_per_s: float
    link_bytes_per_s: float
    """To the other GPUs of its machine: NVLink, else PCIe."""
    host_bytes_per_s: float
    """To the memory of its machine."""
    network_bytes_per_s: float
    """To other machines."""
    gpus_per_node: int
    source: str

    def flops_per_s(self, precision: str) -> float:
        """Peak of a precision of `train.precision`."""
        return self.bf16_flops_per_s if precision == "bf16" else self.fp32_flops_per_s


def _gpu(
    name: str,
    gb: int,
    *,
    bf16: float,
    fp32: float,
    memory: float,
    link: float,
    host: float,
    network: float,
    source: str,
) -> Gpu:
    """In the units of a datasheet: GB, TFLOP/s, GB/s; the network in Gbit/s."""
    rates = {"memory_bytes_per_s": memory * 1e9, "link_bytes_per_s": link * 1e9, "host_bytes_per_s": host}
    return Gpu(
        name,
        gb * 10**9,
        bf16_flops_per_s=bf16 * 1e12,
        fp32_flops_per_s=fp32 * 1e12,
        network_bytes_per_s=network * GBIT,
        gpus_per_node=8,
        source=source,
        **rates,
    )


_A100 = {"bf16": 312, "fp32": 19.5, "link": 300, "host": PCIE_4, "network": 200}
_H100 = {"bf16": 989.4, "fp32": 66.9, "link": 450, "host": PCIE_5, "network": 400}
_A100_SHEET = "NVIDIA A100 datasheet (SXM); network of a DGX A100, 8 x 200 Gbit/s"

GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        _gpu("a100-40", 40, memory=1555, source=_A100_SHEET, **_A100),
        _gpu("a100-80", 80, memory=2039, source=_A100_SHEET, **_A100),
        _gpu(
            "h100",
            80,
            memory=3350,
            source="NVIDIA H100 datasheet (SXM); network of a DGX H100, 8 x 400 Gbit/s",
            **_H100,
        ),
        _gpu(
            "h200",
            141,
            memory=4800,
            source="NVIDIA H200 datasheet (SXM); network of a DGX H200, 8 x 400 Gbit/s",
            **_H100,
        ),
        _gpu(
            "b200",
            180,
            bf16=2250,
            fp32=75,
            memory=8000,
            link=900,
            host=PCIE_5,
            network=400,
            source="NVIDIA DGX B200 datasheet, an eighth of it; network 8 x 400 Gbit/s",
        ),
        _gpu(
            "l40s",
            48,
            bf16=362,
            fp32=91.6,
            memory=864,
            link=PCIE_4 / 1e9,
            host=PCIE_4,
            network=50,
            source="NVIDIA L40S datasheet, no NVLink; network of an AWS g6e.48xlarge, 400 Gbit/s for 8",
        ),
        _gpu(
            "l4",
            24,
            bf16=121,
            fp32=30.3,
            memory=300,
            link=PCIE_4 / 1e9,
            host=PCIE_4,
            network=12.5,
            source="NVIDIA L4 datasheet, no NVLink; network of an AWS g6.48xlarge, 100 Gbit/s for 8",
        ),
        _gpu(
            "rtx4090",
            24,
            bf16=165.2,
            fp32=82.6,
            memory=1008,
            link=PCIE_4 / 1e9,
            host=PCIE_4,
            network=3.125,
            source="NVIDIA Ada architecture whitepaper, no NVLink; network assumed 25 Gbit/s for 8",
        ),
    )
}
"""By the name that `gen-dist plan --gpu` takes."""


def find_gpu(name: str, *, gpus_per_node: int = 0, network_gbit_per_s: float = 0.0) -> Gpu:
    """The GPU `name`, so many in a machine, with so fast a network for each; 0: as in the table. Raises: PlanError."""
    if name not in GPUS:
        raise PlanError(f"--gpu {name}: unknown GPU; {choose(name, GPUS)}")
    gpu = GPUS[name]
    return replace(
        gpu,
        gpus_per_node=gpus_per_node or gpu.gpus_per_node,
        network_bytes_per_s=network_gbit_per_s * GBIT or gpu.network_bytes_per_s,
    )
