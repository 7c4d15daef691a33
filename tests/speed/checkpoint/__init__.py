"""Checkpoints against DeepSpeed's own: the same engine, the same two workers, the same disk, in turns.

`python -m tests.speed checkpoint-blocking | checkpoint-total | resume`, with `--json`; `--only zero-1` for one case.

The state is that of 98 million parameters in 400 tensors with both of Adam's moments, on two workers over gloo, at ZeRO
1 and 3. Ours is what a run does: fragments in buffers that are kept, files hashed and flushed to the disk before they
are told of, a manifest. DeepSpeed's hashes nothing and flushes nothing. Before each turn the disk is idle.
"""
