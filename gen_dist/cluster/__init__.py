"""Getting a job onto a cluster from the laptop in front of you, and watching, stopping and resuming it there."""
