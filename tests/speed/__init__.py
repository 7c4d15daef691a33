"""Claims about speed: `python -m tests.speed NAME` measures ours and theirs in one run, side by side."""
