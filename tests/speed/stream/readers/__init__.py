"""One module a side: `ready(task)` does what is not timed and gives the function whose batches are."""
