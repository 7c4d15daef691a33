"""Globs of shard names: what no store can list."""

from __future__ import annotations

from pathlib import PurePosixPath


def pattern_fault(pattern: str) -> str:
    """Why no name below a folder can match, with what to write instead; "" where one may."""
    parts = pattern.split("/")
    if not PurePosixPath(pattern).parts:
        return "names nothing; write a glob of names below the folder, such as '*.tar'"
    if pattern.startswith("/") or ".." in parts:
        return "leads out of the folder; name that folder as the url, and write a glob of names below it"
    if any("**" in part and part != "**" for part in parts):
        return "has a '**' beside other letters; '*' stops at '/', so write 'folder/*.tar' for each level"
    return ""
