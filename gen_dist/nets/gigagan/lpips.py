"""LPIPS: how far two images are from each other for an eye, by the features of a frozen VGG-16.

Zhang et al. 2018, "The unreasonable effectiveness of deep features as a perceptual metric", eq. 1:

    d(x, y) = sum_l 1 / (H_l W_l) sum_hw |w_l * (f_l(x)_hw - f_l(y)_hw)|^2,  f_l of unit length along the channels

with the squared w_l as the learned, non-negative weights of the published `lin` layers.

Shapes: B images, C channels, H x W pixels, h x w of a feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from gen_dist.nets.pretrained import PretrainedError, wants_weights

FILES = ("vgg16.safetensors", "lpips.safetensors")
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # channels of VGG-16, by resolution
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pixels in [-1, 1], as the published weights want
EPS = 1e-10


class Lpips(nn.Module):
    """Images (B, 3, H, W) of 16 px or more twice, in [-1, 1] -> (B,), 0 where they are the same."""

    def __init__(self, folder: Path) -> None:
        """`folder`: vgg16.safetensors, torchvision's VGG-16, and lpips.safetensors, the package's `lin` layers.

        Raises: PretrainedError.
        """
        super().__init__()
        widths = [width for stage in STAGES for width in stage]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, width, 3, padding=1) for before, width in zip([3, *widths[:-1]], widths, strict=True)
        )
        self.lins = nn.ParameterList(torch.empty(stage[-1]) for stage in STAGES)
        names = {f"lins.{number}": f"lin{number}.model.1.weight" for number in range(len(STAGES))}
        for number, place in enumerate(_places()):
            names |= {f"convs.{number}.{part}": f"features.{place}.{part}" for part in ("weight", "bias")}
        if wants_weights():
            self.load_state_dict(_read(folder, names, self.state_dict()))
        self.requires_grad_(False)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Differentiable in both, also where they are the same."""
        shift, scale = (one.new_tensor(value)[:, None, None] for value in (SHIFT, SCALE))
        x = (torch.cat([one, other]) - shift) / scale
        convs, total = iter(self.convs), one.new_zeros(len(one))
        for stage, lin in zip(STAGES, self.lins, strict=True):
            x = F.max_pool2d(x, 2) if stage is not STAGES[0] else x
            for _ in stage:
                x = F.relu(next(convs)(x))
            unit = x * torch.rsqrt(x.square().sum(dim=1, keepdim=True) + EPS)
            a, b = unit.chunk(2)
            total = total + ((a - b).square() * lin[:, None, None]).sum(dim=1).mean(dim=(1, 2))
        return total


def _places() -> list[int]:
    """The numbers of torchvision's convolutions: each is followed by a ReLU, and each stage by a pooling."""
    found, place = [], 0
    for stage in STAGES:
        found += [place + 2 * number for number in range(len(stage))]
        place += 2 * len(stage) + 1
    return found


def _read(folder: Path, names: Mapping[str, str], shapes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of both files by our names. Raises: PretrainedError."""
    where, found = f"model.lpips={str(folder)!r}", {}
    for file in FILES:
        if not (folder / file).is_file():
            remedy = f"write {FILES[0]} of torchvision's vgg16 and {FILES[1]} of the package lpips there"
            raise PretrainedError(f"{where}: no {file} there; {remedy}")
        try:
            with safe_open(folder / file, framework="pt") as opened:
                for ours, theirs in names.items():
                    if theirs in opened.keys():  # noqa: SIM118 (it is no mapping)
                        found[ours] = opened.get_tensor(theirs).float()
        except (OSError, SafetensorError) as error:
            raise PretrainedError(f"{where}: {file} is unreadable ({error}); write it again") from None
    for ours, theirs in names.items():
        if ours not in found or found[ours].numel() != shapes[ours].numel():
            seen = tuple(found[ours].shape) if ours in found else "missing"
            raise PretrainedError(
                f"{where}: {theirs}: {seen}, expected {tuple(shapes[ours].shape)}; name one with VGG-16's"
            )
    return {ours: value.reshape(shapes[ours].shape) for ours, value in found.items()}
