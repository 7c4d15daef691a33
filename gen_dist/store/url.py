"""From a data URL to the store behind it: `embedded://name`, a folder, or `s3://bucket/prefix`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from gen_dist.store.base import Store, StoreError
from gen_dist.store.local import LocalStore

if TYPE_CHECKING:
    from gen_dist.job.spec import S3Spec


def open_store(url: str, s3: S3Spec | None = None, *, keys: tuple[str, str] = ("data.url", "data.s3")) -> Store:
    """The store of a URL; `s3` says how to reach an `s3://` one. Nothing is read yet.

    `keys`: where a job says so, for errors.

    Raises: StoreError for a scheme or an embedded data set that does not exist.
    """
    scheme, _, rest = url.partition("://") if "://" in url else ("", "", url)
    if scheme in ("", "file"):
        if not rest:
            raise StoreError(f"{keys[0]} is empty; write a folder, s3://bucket/prefix or embedded://emoji", url=url)
        return LocalStore(Path(rest), url=url.rstrip("/") or "/")
    if scheme == "embedded":
        return LocalStore(_embedded_folder(url, rest.strip("/")), url=url.rstrip("/"), embedded=True)
    if scheme == "s3":
        from gen_dist.store.s3 import Keys, S3Store  # boto3 is paid for only by those who use it

        bucket, _, prefix = rest.partition("/")
        return S3Store(
            bucket=bucket,
            prefix=prefix.strip("/"),
            endpoint_url=s3.endpoint_url if s3 else "",
            region=s3.region if s3 else "",
            addressing=s3.addressing if s3 else "auto",
            keys=Keys(*keys),
        )
    raise StoreError(
        f"{url}: unknown scheme {scheme!r}; write a folder, s3://bucket/prefix or embedded://name", url=url
    )


def _embedded_folder(url: str, name: str) -> Path:
    root = Path(str(files("gen_dist"))) / "data"
    names = sorted({path.parent.name for path in root.glob("*/*.tar")})
    if name not in names:
        known = ", ".join(f"embedded://{known}" for known in names) or "none"
        raise StoreError(f"{url}: no such embedded data set; this package holds {known}", url=url)
    return root / name
