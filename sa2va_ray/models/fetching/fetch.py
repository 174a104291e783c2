"""jobs.fetch: a model's files go to a store one by one, each checked by its hash; nothing else is kept on this disk."""

import json
import re
import tempfile
from pathlib import Path

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.models.fetching.config import FetchConfig
from sa2va_ray.models.fetching.sources import File, FolderSource, HubSource, check_content, open_source
from sa2va_ray.models.loading.source_folder import SMALL_FILES, read_source_folder
from sa2va_ray.models.model_manifest import MODEL_MANIFEST
from sa2va_ray.telemetry import LOGGER, Progress, configure_logging, log_result

RECORD = "sa2va_fetch.json"
"""Written last: where the files came from, with size and SHA-256 of each."""
_WEIGHTS = ".safetensors"
_GIB = 2**30


def fetch(config: FetchConfig) -> str:
    """Brings a model to `config.out`. Returns that. Started again, it goes on.

    Raises:
        UserError: no such source, no model that we can load, a wrong hash, or storage does not work.
    """
    configure_logging()
    source = open_source(config.source, config.revision)
    if isinstance(source, FolderSource):
        storage.check_outside(config.out, {"source": source.name})
    storage.check_writable(config.out)
    files = _wanted(source, config)
    if config.file is None:
        _check_loads(source, [file for file in files if file.name.endswith(SMALL_FILES)])
    total = sum(file.size for file in files)
    record = {}
    with Progress("fetch", len(files)) as progress:
        for file in files:
            record[file.name] = {"size": file.size, "sha256": _bring(source, file, config.out)}
            progress.step(f"{file.name}, {file.size / _GIB:.2f} of {total / _GIB:.2f} GiB")
    if MODEL_MANIFEST not in record:  # which says more
        known = {"source": config.source, "commit": source.version, "files": record}
        storage.write_bytes(storage.join(config.out, RECORD), json.dumps(known, indent=2).encode())
    place = storage.join(config.out, config.file) if config.file else config.out
    LOGGER.info("fetched: %d files, %.2f GiB", len(files), total / _GIB)
    key = "sam2_checkpoint" if config.file else "source"
    log_result(place, "jobs.train", "jobs/configs/octa_8b.yaml", f"model.base.{key}={place}", "plan=true")
    return place


def _wanted(source: HubSource | FolderSource, config: FetchConfig) -> list[File]:
    """The files to be brought, the small ones first: a model that we cannot load is refused before its weights come."""
    files = source.files()
    if config.file:
        found = [file for file in files if file.name == config.file]
        if not found:
            names = ", ".join(sorted(file.name for file in files)[:20])
            raise UserError(f"{source.name} has no file {config.file}. It has {names or 'none'}.")
        return found
    left_out = {RECORD, MODEL_MANIFEST} if config.only_config else {RECORD}
    files = [file for file in files if not re.search(r"^\.|/", file.name) and file.name not in left_out]
    if not any(file.name == "config.json" for file in files):
        raise UserError(f"{source.name} is no model folder: it has no config.json. One file of it: file=NAME.")
    if not config.only_config and not any(file.name.endswith(_WEIGHTS) for file in files):
        raise UserError(f"{source.name} has no *{_WEIGHTS}: its weights are in no form that is loaded here.")
    is_exported = any(file.name == MODEL_MANIFEST for file in files)
    suffixes = SMALL_FILES if config.only_config else (*SMALL_FILES, _WEIGHTS)
    wanted = [file for file in files if is_exported or file.name.endswith(suffixes)]  # the manifest names all files
    return sorted(
        wanted, key=lambda file: (file.name == MODEL_MANIFEST, not file.name.endswith(SMALL_FILES), file.name)
    )


def _check_loads(source: HubSource | FolderSource, small: list[File]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for file in small:
            with source.local(file) as path:
                check_content(path, file, source.name)
                (Path(folder) / file.name).write_bytes(path.read_bytes())
        read_source_folder(Path(folder), source.name, None, may_be_quantised=True)


def _bring(source: HubSource | FolderSource, file: File, out: str) -> str:
    """Copies a file, unless it is there with the same content. Returns its SHA-256."""
    place = storage.join(out, file.name)
    found = storage.sha256(place) if storage.exists(place) and storage.size_bytes(place) == file.size else None
    if found and found == file.sha256:
        return found
    with source.local(file) as path:
        expected = check_content(path, file, source.name)
        if found != expected:
            storage.upload_file(path, place)
            if storage.sha256(place) != expected:
                raise UserError(f"{place} is not what was written there. Check the store, and start the command again.")
    return expected
