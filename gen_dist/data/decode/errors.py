"""DecodeError, what a decoder raises, and the buffers that decoders take."""

from __future__ import annotations

from gen_dist.job.errors import GenDistError

Buffer = bytes | bytearray | memoryview


class DecodeError(GenDistError, ValueError):
    """A member that is not what its field says, on one line. The stream adds the shard and the sample."""


def one_line(error: BaseException) -> str:
    """What a library said, without line ends."""
    return " ".join(str(error).split()) or type(error).__name__
