"""Checkpoints that older releases wrote, kept as they wrote them: `NAME.tar.xz` beside this file.

`gen-dist-VERSION.tar.xz` is our own of that version, `deepspeed-VERSION.tar.xz` DeepSpeed's. Each holds a folder for
each way that a state was spread, and in it `truth.npz`: every number by its key, as DeepSpeed's functions told it then.
To keep those of the release in hand, and of a DeepSpeed that is not the pinned one:

    python -m tests.contract.older gen-dist
    pip install --no-deps --target /tmp/older deepspeed==0.19.7
    PYTHONPATH=/tmp/older python -m tests.contract.older deepspeed
"""
