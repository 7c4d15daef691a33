"""What a verb with --json prints: one document, for programs."""

from __future__ import annotations

import json
from typing import Any


def print_report(facts: Any) -> None:
    """Facts, as JSON."""
    print(json.dumps(facts, indent=2))
