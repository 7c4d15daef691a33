"""`s3://` for webdataset: after `register()`, a plain `wds.WebDataset("s3://bucket/key.tar")` survives cut bodies.

webdataset takes the end of a stream for the end of a shard, so a connection that breaks between two samples loses the
rest of the shard without an error. What is opened here goes on from the last received byte, of the same version of the
object, or raises StoreError. `webdataset.TarWriter("s3://...")` works too: the shard is kept in a temporary file and
sent when it is closed. Endpoint, region and credentials are those of the environment (AWS_ENDPOINT_URL,
AWS_DEFAULT_REGION, AWS_PROFILE, ...), since webdataset has nothing but the address. Importing gen_dist.data.source
registers it; `register()` does so on its own.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from webdataset.gopen import gopen_schemes

from gen_dist.store.base import StoreError
from gen_dist.store.s3 import S3Store

SETTINGS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE")

_stores: dict[tuple[str, ...], S3Store] = {}  # a client costs as much as many requests


def register() -> None:
    """Makes webdataset open `s3://` addresses with us. Calling it twice is fine."""
    gopen_schemes["s3"] = open_url


def open_url(url: str, mode: str = "rb", bufsize: int = 8192, **_: Any) -> Any:
    """What webdataset calls: a stream to read (`rb`), or a file that is uploaded when it is closed (`wb`).

    `bufsize` is webdataset's and is not used: bodies are read in larger pieces.
    """
    bucket, name = (*url.removeprefix("s3://").split("/", 1), "")[:2]
    if not bucket or not name:
        raise StoreError(f"{url}: no object; write s3://bucket/key", url=url)
    settings = (bucket, *(os.environ.get(setting, "") for setting in SETTINGS))
    store = _stores.setdefault(settings, S3Store(bucket=bucket))
    if mode in ("r", "rb"):
        return store.stream(name)
    if mode in ("w", "wb"):
        return Upload(store, name)
    raise StoreError(f"{url}: mode {mode!r} is none; use 'rb' or 'wb'", url=url)


class Upload:
    """A file to write once from front to back, which becomes an object when it is closed.

    One that is left by an exception, or never closed, becomes none: half a shard would look like a whole one.
    """

    def __init__(self, store: S3Store, name: str) -> None:
        self._store, self._name = store, name
        self._file = tempfile.NamedTemporaryFile(prefix="gen-dist-", suffix=".tar")  # noqa: SIM115

    def write(self, data: bytes) -> int:
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        self._file.flush()

    @property
    def closed(self) -> bool:
        return self._file.closed

    def close(self) -> None:
        """Uploads. Raises: StoreError, after which there is no object."""
        if self._file.closed:
            return
        with self._file:
            self._file.flush()
            self._store.write_file(self._name, Path(self._file.name))

    def __enter__(self) -> Upload:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()
