"""The stream against its peers and its ceiling: cold, from a real S3 server, on the same bytes, with the same decoder.

`python -m tests.speed stream-vs-peers | stream-ceiling | stream-latents | stream-resume`, with `--json`.

Every figure is that of a fresh process that reads one epoch in batches of 64 (`epoch.py`): from the first batch asked
for to the last one delivered, so that constructors and first requests count, and the interpreter and imports do not.
The sides take turns in rounds, and each process reports a witness, a sum over the samples that does not depend on
their order: a side that lost a sample or decoded it otherwise fails the benchmark. The server runs on the same
processors; its time is in the wall clock of whoever reads, and not in the CPU figures.

Peers deliver in the order of their files, which is their quickest, though ours shuffles. The shards are kept between
runs below the folder for temporary files (TMPDIR), the peers' environment in GEN_DIST_PEERS or ~/.cache/gen-dist-peers.
"""
