"""What a job will need and cost on a cluster, before a GPU is held: memory, time, traffic, price. See README.md."""
