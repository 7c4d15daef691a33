"""The job: what to run, typed and checked before anything starts. Imports no torch, so that checking costs nothing."""
