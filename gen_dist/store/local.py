"""A folder on a disk that every worker can read, or the shards embedded in this package."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from gen_dist.store.base import ObjectInfo, StoreError, sorted_matches


class LocalStore:
    """Objects are the files below `folder`. Their version is empty: copies of one file differ in time stamps."""

    def __init__(self, folder: Path, *, url: str = "") -> None:
        self._folder = folder
        self.url = url or str(folder)

    def list(self, pattern: str) -> list[ObjectInfo]:
        if not self._folder.is_dir():
            seen = "is a file" if self._folder.exists() else "does not exist"
            raise StoreError(f"{self.url}: the folder {seen}; write the folder that holds the shards", url=self.url)
        infos = []
        for path in self._folder.glob(pattern):
            if path.is_file():
                infos.append(ObjectInfo(path.relative_to(self._folder).as_posix(), path.stat().st_size))
        return sorted_matches(infos, pattern)

    def read(self, name: str, start: int = 0, end: int | None = None, *, version: str = "") -> bytes:
        with self.open(name, version=version) as file:
            try:
                file.seek(start)
                return file.read(-1 if end is None else max(0, end - start))
            except OSError as error:
                raise self._error(name, error) from error

    def open(self, name: str, *, version: str = "") -> BinaryIO:
        try:
            return (self._folder / name).open("rb")
        except OSError as error:
            raise self._error(name, error) from error

    def _error(self, name: str, error: OSError) -> StoreError:
        url = f"{self.url}/{name}"
        return StoreError(f"{url}: {error.strerror or error}; check that this worker sees the folder", url=url)
