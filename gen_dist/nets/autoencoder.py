"""The autoencoder that another run of latent diffusion trained: weights, settings, moments of its latents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from gen_dist.job.errors import GenDistError
from gen_dist.nets.committed import newest_committed, read_facts, read_tensors

PARTS = ("encoder", "decoder")
SHARED = ("patch_px", "autoencoder_channels", "latent_channels")  # settings that decide its networks
FACTS, FILES = "model.json", ("model.safetensors", "recipe.safetensors")  # of an export


class AutoencoderError(GenDistError):
    """A folder whose autoencoder cannot be used."""


@dataclass(frozen=True)
class StoredAutoencoder:
    """What lies in a checkpoint, or in an export, of a run that trained one."""

    settings: Mapping[str, Any]
    """Those of `SHARED`, and autoencoder_images."""
    weights: Mapping[str, Tensor]
    """By `encoder.parameter` and `decoder.parameter`."""
    state: Mapping[str, Tensor]
    """Moments of its latents: latent_mean and latent_square, each (c,)."""

    @classmethod
    def read(cls, folder: Path) -> StoredAutoencoder:
        """From a run folder (its newest checkpoint), a checkpoint or an export. Raises: AutoencoderError."""
        where = f"model.autoencoder={str(folder)!r}"
        checkpoint = newest_committed(folder)
        if checkpoint is None and not (folder / FACTS).is_file():
            remedy = "name the folder of a run of latent_diffusion, one of its checkpoints, or an export"
            raise AutoencoderError(f"{where}: no checkpoint there; {remedy}")
        try:
            facts = read_facts(checkpoint) if checkpoint else json.loads((folder / FACTS).read_text(encoding="utf-8"))
            name, model, images = facts["job"]["recipe"], facts["job"]["model"], int(facts["images"])
            if name != "latent_diffusion":
                raise AutoencoderError(f"{where}: a model of {name}; name one of latent_diffusion")
            settings = {key: model[key] for key in (*SHARED, "autoencoder_images")}
            with unset_fake_temporarily():  # a plan makes tensors without data, and a file has some
                if checkpoint:
                    tensors, state = read_tensors(checkpoint, _network), read_tensors(checkpoint, _state)
                else:
                    tensors, state = (load_file(folder / file) for file in FILES)
        except (OSError, ValueError, KeyError, TypeError, IndexError, SafetensorError) as error:
            raise AutoencoderError(f"{where}: unreadable ({error}); name another checkpoint") from None
        if model.get("autoencoder"):
            raise AutoencoderError(f"{where}: its autoencoder is another model's; name {model['autoencoder']}")
        if images < settings["autoencoder_images"]:
            seen = f"its autoencoder saw {images:,} of {settings['autoencoder_images']:,} images"
            raise AutoencoderError(f"{where}: {seen}; let that run reach its denoiser first")
        weights = {key: value for key, value in tensors.items() if key.partition(".")[0] in PARTS}
        return cls(settings, weights, state)

    def check(self, wanted: Mapping[str, Any]) -> None:
        """That a model of these settings has these networks. Raises: AutoencoderError naming the first difference."""
        for name in SHARED:
            there, here = _plain(self.settings[name]), _plain(wanted[name])
            if there != here:
                raise AutoencoderError(f"model.{name}={here}: model.autoencoder has {there}; write {name} = {there}")

    def fill(self, nets: Mapping[str, nn.Module]) -> None:
        """Give `encoder` and `decoder` its weights."""
        for part in PARTS:
            nets[part].load_state_dict(self.part(part))

    def part(self, name: str) -> dict[str, Tensor]:
        """Weights of `encoder` or `decoder`, by parameter."""
        prefix = f"{name}."
        return {key.removeprefix(prefix): value for key, value in self.weights.items() if key.startswith(prefix)}

    def write(self, folder: Path) -> None:
        """A new folder that `read` takes, with nothing else of the model."""
        folder.mkdir()
        job = {"recipe": "latent_diffusion", "model": dict(self.settings)}
        facts = {"images": self.settings["autoencoder_images"], "job": job}
        (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        for file, tensors in zip(FILES, (self.weights, self.state), strict=True):
            save_file(dict(tensors), folder / file)


def _network(key: str) -> str | None:
    """`encoder.parameter` of a checkpoint's key. An autoencoder keeps no average: the live weights are the model."""
    section, _, rest = key.partition("/")
    name = rest.partition("/")[2].removeprefix("nets.")
    return name if section in ("weight", "buffer") and name.partition(".")[0] in PARTS else None


def _state(key: str) -> str | None:
    section, _, name = key.partition("/")
    return name if section == "recipe" else None


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """sha256 of weights and buffers with their names."""
    sha = hashlib.sha256()
    for name, value in sorted(weights.items()):
        host = value.detach().to("cpu").contiguous()
        sha.update(f"{name}\0{host.dtype}\0{tuple(host.shape)}\n".encode())
        sha.update(host.reshape(-1).view(torch.uint8).numpy().data)  # of any dtype
    return sha.hexdigest()


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else value
