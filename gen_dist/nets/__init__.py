"""Networks used by two recipes or more."""
