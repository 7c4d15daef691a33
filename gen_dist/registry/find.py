"""find_model: from what a person calls a model (run folder, checkpoint, export, registered name) to what it holds."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gen_dist.checkpoint import MANIFEST, CheckpointError, candidates, open_checkpoint
from gen_dist.registry.errors import RegistryError
from gen_dist.registry.runs import CHECKPOINTS, RESOLVED, newest, run_store
from gen_dist.sample.source import FACTS, Exported, ModelSource
from gen_dist.sample.trained import Trained
from gen_dist.store import Store, open_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

REGISTERED = "models:/"
DEFAULT_DATABASE = Path("runs/mlflow.db")
MOST_NAMES = 12
_WANTED = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>\d+)|@(?P<alias>[^/@]+))")
_INSIDE = Path("artifacts/model")  # of an MLflow model that `publish` wrote


def find_model(name: str, *, tracking_uri: str = "", passed_over: Callable[[str], object] | None = None) -> ModelSource:
    """What `Model.load` reads.

    `name` is a run folder (its newest checkpoint), a checkpoint, an exported model, or `models:/name@latest`,
    `models:/name/3`. MLflow's address: `tracking_uri`, else MLFLOW_TRACKING_URI, else runs/mlflow.db.
    With `passed_over` the newest checkpoint of a run is read as far as drawing needs it; where it is damaged, the one
    before is taken instead, and `passed_over` hears of it. Without, nobody is given an older one.
    Raises: RegistryError, CheckpointError, StoreError.
    """
    if name.startswith(REGISTERED):
        return Exported(_registered(name, address(tracking_uri)))
    if "://" in name:
        return _stored(name, passed_over)
    folder = Path(name)
    if not folder.exists():
        raise RegistryError(f"{name}: no such folder; {_choose(name, _nearby(folder))}")
    if not folder.is_dir():
        raise RegistryError(f"{name}: a file; name the run folder, a checkpoint folder, or models:/NAME@latest")
    for place in (folder, folder / _INSIDE):
        if (place / FACTS).is_file():
            return Exported(place)
    if (folder / MANIFEST).is_file():
        return Trained(open_checkpoint(open_store(str(folder.parent)), folder.name))
    store = run_store(folder)
    found = _newest(store if store is not None else open_store(str(folder)), passed_over)
    if found is not None:
        return found
    if store is not None:
        raise RegistryError(f"{name}: a run without a whole checkpoint yet; wait for its first one, or resume the run")
    inside = sorted(f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir())
    runs = [str(run) for run in _runs(folder)]
    remedy = f"write {runs[0]}" if len(runs) == 1 else "name a run folder, a checkpoint, or models:/NAME@latest"
    if len(runs) > 1:
        remedy = f"its runs are {_listed(runs)}; name one"
    raise RegistryError(f"{name}: no checkpoint here, it holds {_listed(inside) or 'nothing'}; {remedy}")


def _stored(url: str, passed_over: Callable[[str], object] | None) -> ModelSource:
    """A checkpoint, or the newest one of a run, by its address in an object store, which the environment reaches."""
    above, _, last = url.rstrip("/").rpartition("/")
    found = _newest(open_store(url.rstrip("/")), passed_over)
    return found if found is not None else Trained(open_checkpoint(open_store(above), last))


def _newest(store: Store, passed_over: Callable[[str], object] | None) -> Trained | None:
    """None where the store has no checkpoint. Raises: CheckpointError where it has, and none of them will do."""
    damage: list[str] = []
    for name in candidates(store):
        try:
            found = Trained(open_checkpoint(store, name))
            if passed_over is not None:
                found.verify()
        except CheckpointError as error:
            if passed_over is None:
                raise
            damage.append(str(error))
            continue
        if passed_over is not None:
            for text in damage:
                passed_over(f"{text}; this is {found.checkpoint.name}")
        return found
    if damage:
        raise CheckpointError(f"{damage[0]}; none of {len(damage)} checkpoints is whole")
    return None


def _runs(folder: Path) -> list[Path]:
    """The runs in a folder of runs that have something to draw from."""
    inside = sorted({path.parent for name in (RESOLVED, CHECKPOINTS) for path in folder.glob(f"*/{name}")})
    return [run for run in inside if (store := run_store(run)) is not None and newest(store) is not None]


def address(tracking_uri: str) -> str:
    """MLflow's address: `tracking_uri`, else MLFLOW_TRACKING_URI, else runs/mlflow.db. Raises: RegistryError."""
    found = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if found:
        return found
    if DEFAULT_DATABASE.is_file():
        return f"sqlite:///{DEFAULT_DATABASE.absolute()}"  # MLflow keeps what it opened by its address
    raise RegistryError(
        f"{DEFAULT_DATABASE}: no such file, and no other MLflow is named; set MLFLOW_TRACKING_URI, or start from the"
        " folder that holds runs/"
    )


def _registered(name: str, uri: str) -> Path:
    wanted = _WANTED.fullmatch(name)
    if wanted is None:
        bare = re.match(r"[^/@]*", name.removeprefix(REGISTERED))
        shown = (bare.group() if bare else "") or "NAME"
        raise RegistryError(f"{name}: not a registered model; write models:/{shown}@latest or models:/{shown}/1")
    from mlflow.exceptions import MlflowException

    from gen_dist.registry import connection

    try:
        client = connection.connect(uri)
        version = _version(client, name, wanted)
        return _download(client, name, version, uri)
    except (MlflowException, OSError) as error:
        line = connection.one_line(error, uri)
        raise RegistryError(f"{name}: {line}; check MLFLOW_TRACKING_URI, or that the server answers") from None


def _version(client: MlflowClient, name: str, wanted: re.Match[str]) -> Any:
    """The model version meant; where there is none, an error that lists those there are."""
    from mlflow.exceptions import MlflowException

    from gen_dist.registry import connection

    model, version, alias = wanted["name"], wanted["version"], wanted["alias"]
    try:
        if version:
            return client.get_model_version(model, version)
        return client.get_model_version_by_alias(model, alias)
    except MlflowException as error:
        if connection.passes(error) or error.get_http_status_code() in (401, 403):
            raise
    known = [found.name for found in client.search_registered_models(max_results=1000)]
    if model not in known:
        raise RegistryError(f"{name}: no registered model {model!r}; {_choose(model, known)}")
    versions = sorted(int(found.version) for found in client.search_model_versions(f"name='{model}'"))
    aliases = sorted({"latest", *client.get_registered_model(model).aliases})
    if not versions:
        raise RegistryError(f"{name}: {model!r} has no version; publish one, or name a run folder")
    if version:
        remedy = f"its versions are {_listed([str(number) for number in versions])}; write models:/{model}@latest"
        raise RegistryError(f"{name}: no version {version}; {remedy}")
    raise RegistryError(f"{name}: no alias {alias!r}; {_choose(alias, aliases)}")


def _download(client: MlflowClient, name: str, version: Any, uri: str) -> Path:
    """The exported model: where the artifacts lie if that is on this machine, else a copy in the cache."""
    import mlflow.artifacts

    from gen_dist.registry.exports import fetch_export

    location = client.get_model_version_download_uri(version.name, version.version)
    key = f"{version.name}-{version.version}-{version.creation_timestamp}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gen-dist" / "models" / key
    if location.startswith(("file:", "/")):
        local = Path(mlflow.artifacts.download_artifacts(artifact_uri=location, tracking_uri=uri))  # copies nothing
        return _exported(local / _INSIDE, name)
    if not cache.is_dir():
        cache.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=cache.parent))
        try:
            if location.startswith("s3://"):
                got = fetch_export(client, version, location, draft, tracking_uri=uri) / _INSIDE
            else:
                source = f"{location.rstrip('/')}/{_INSIDE}"
                got = Path(mlflow.artifacts.download_artifacts(source, dst_path=str(draft), tracking_uri=uri))
            _exported(got, name)
            if not cache.is_dir():
                got.rename(cache)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return _exported(cache, name)


def _exported(folder: Path, name: str) -> Path:
    if not (folder / FACTS).is_file():
        raise RegistryError(f"{name}: no drawable model in it ({folder}); name a model that gen-dist published")
    return folder


def _nearby(folder: Path) -> list[str]:
    """Folders that may have been meant: beside it, and the runs of the default folder."""
    parent = folder.parent
    beside = [path for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []
    runs = [path.parent for name in (RESOLVED, CHECKPOINTS) for path in Path("runs").glob(f"*/{name}")]
    return sorted({str(path) for path in [*beside, *runs] if not path.name.startswith(".")})


def _choose(written: str, known: Sequence[str]) -> str:
    """ "did you mean ..." where one is close or is written in it, else all there are."""
    if not known:
        return "there is none; train one, or name a run folder"
    last = Path(written).name
    close = [name for name in known if Path(name).name == last] or difflib.get_close_matches(written, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are {_listed(known)}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
