"""The environment of gigagan-pytorch."""

from __future__ import annotations

from tests.speed.peers import Peers

# It imports torchvision for reading and saving images, and open_clip for text and two losses: none is timed.
PEERS = Peers(
    pins=(
        "gigagan-pytorch==0.3.0",
        "accelerate==1.15.0",
        "beartype==0.23.1",
        "ema-pytorch==0.8.3",
        "kornia==0.9.0",
        "numerize==0.12",
    ),
    stubs={
        "torchvision/__init__.py": "from torchvision import transforms, utils\n",
        "torchvision/transforms.py": "",
        "torchvision/utils.py": "",
        "open_clip.py": "",
        "kornia_rs.py": "io = None\n",  # codecs that kornia imports beside the one filter that is used
    },
)
