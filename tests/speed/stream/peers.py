"""The environment of litdata and mosaicml-streaming."""

from __future__ import annotations

from tests.speed.peers import Peers

# torchvision and the clients of stores that nobody reads here stay away. The rest are what they import.
PEERS = Peers(
    pins=(
        "litdata==0.2.76",
        "obstore==0.12.1",
        "lightning-utilities==0.15.3",
        "mosaicml-streaming==0.13.0",
        "brotli==1.2.1",
        "catalogue==2.0.10",
        "cramjam==2.14.0",
        "python-snappy==0.7.3",
        "xxhash==4.1.0",
        "zstd==1.5.7.2",
    ),
    # mosaicml-streaming imports these names for data sets that are not read here.
    stubs={
        "torchvision/__init__.py": "",
        "torchvision/datasets.py": "VisionDataset = CIFAR10 = object\n",
        "torchvision/transforms/__init__.py": "",
        "torchvision/transforms/functional.py": "to_tensor = None\n",
    },
)
