"""When is a prepared data set whole, is it the one that was asked for, and who may write it?

A folder holds one current data set of a kind. Its pointer file (`corpus.json`, `contigs.json`) is
the manifest and is written last, in one step; without it nothing counts. The data lie in a folder
named by the fingerprint of all they were made from, so a change of sources, options or code never
meets old files.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import io
import itertools
import json
import logging
import operator
import os
import pathlib
import platform
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from data_pipeline.errors import UserError

Item = TypeVar("Item")

ADDRESS = ".address"
"""Ending of the file beside a source that was fetched, which says from where."""
LIBRARIES = ("numpy", "tensorflow-datasets", "array_record")


def describe_sources(paths: Sequence[str]) -> list[dict[str, Any]]:
    """Path, bytes and sha256 of each file, in the order given; of one fetched also the address."""
    described = []
    for path in paths:
        if not (os.path.exists(path) or path == "-" or "://" in path):
            raise UserError(f"{path}: no such file; check the path")
        if not os.path.isfile(path):
            raise UserError(
                f"{path}: prepare reads its sources more than once, so they must be files; "
                "save this one to a file first"
            )
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        about = {"path": path, "bytes": os.path.getsize(path), "sha256": digest}
        if os.path.isfile(path + ADDRESS):
            with open(path + ADDRESS, encoding="utf-8") as file:
                about["address"] = file.read()
        described.append(about)
    return described


def contents(sources: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Name without folder, and checksum, of described files: the same data elsewhere are equal."""
    return [(os.path.basename(source["path"]), source["sha256"]) for source in sources]


def fingerprint(identity: Mapping[str, Any]) -> str:
    """sha256 (hex) of a JSON-able mapping, whatever the order of its keys."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that write the files."""
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), **versions}


def make_folder(folder: str) -> None:
    """Makes it, and those above it, unless it is there; UserError when that cannot be done."""
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as problem:
        raise UserError(f"{folder}: cannot be made ({problem.strerror})") from problem


@contextlib.contextmanager
def sole_writer(data_dir: str, what: str = "prepare") -> Iterator[None]:
    """Holds the folder against a second writer; the system frees it when the process ends or dies.

    Raises UserError when another process is writing there.
    """
    make_folder(data_dir)
    try:
        lock = open(os.path.join(data_dir, ".lock"), "a+")  # noqa: SIM115  # closed below
    except OSError as problem:
        raise UserError(f"{data_dir}: cannot be written to ({problem.strerror})") from problem
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"{data_dir}: another {what} is writing here (process {file.read().strip()}); "
                "wait until it is done, or choose another folder"
            ) from None
        except OSError as error:
            raise UserError(
                f"{data_dir}: this file system cannot lock files ({error.strerror}); {what} on a "
                "local disk and copy the folder"
            ) from None
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def remove_leftovers(data_dir: str, folder: str) -> None:
    """Takes away what killed builds left; for the sole writer, before it writes `folder`.

    These are TFDS's `incomplete.*` folders, half-written pointers, and `folder` itself, which only
    counts while a pointer file names it.
    """
    root = pathlib.Path(data_dir)
    for path in (*root.glob("*/*/incomplete.*"), pathlib.Path(folder)):
        shutil.rmtree(path, ignore_errors=True)
    for path in root.glob("*.json.partial"):
        path.unlink()


def by_shard(numbered: Iterable[tuple[int, Item]], shards: int) -> list[Iterator[Item]]:
    """The items of each shard, from (shard, item) in ascending order of shards 0 .. `shards` - 1.

    The iterators share one pass over `numbered`, so each has to be exhausted before the next one is
    begun.
    """
    groups = itertools.groupby(numbered, key=operator.itemgetter(0))

    def items(shard: int) -> Iterator[Item]:
        found, members = next(groups)
        if found != shard:
            raise RuntimeError(f"shard {found} comes where shard {shard} should")
        for _, item in members:
            yield item

    return [items(shard) for shard in range(shards)]


@contextlib.contextmanager
def quiet_tfds() -> Iterator[str]:
    """Keeps TFDS from announcing downloads and custom configurations, of which it knows nothing.

    Gives it a folder for the downloads that it does not make, to be removed again.
    """
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            yield folder
    finally:
        logger.setLevel(level)


def sizes_of_files(folder: str) -> dict[str, int]:
    """Bytes of every file in `folder`, by name."""
    return {path.name: path.stat().st_size for path in sorted(pathlib.Path(folder).iterdir())}


def write_pointer(path: str, manifest: Mapping[str, Any]) -> None:
    """Writes the manifest so that the file is either the old one or the new one, never a part."""
    partial = f"{path}.partial"
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def read_pointer(path: str) -> dict[str, Any] | None:
    """The manifest, or None where there is no pointer file."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno}: not a manifest ({error.msg}); delete the file and "
            "prepare the data again"
        ) from None


def missing_file(data_dir: str, manifest: Mapping[str, Any]) -> str | None:
    """The first file of the data set that is gone or has another size; None when all are whole."""
    folder = os.path.join(data_dir, manifest["folder"])
    for name, size in manifest["files"].items():
        path = os.path.join(folder, name)
        if not os.path.isfile(path) or os.path.getsize(path) != size:
            return path
    return None


def unreadable(what: str, error: Exception) -> UserError:
    """The error to raise when `what` was stored and ArrayRecord cannot read it any more."""
    return UserError(
        f"{what} cannot be read ({error}): its file was damaged or moved since it was prepared; "
        "delete the folder `data` of that workdir and run prepare again"
    )


def is_whole(data_dir: str, name: str, fingerprint: str) -> bool:
    """Is the data set of that fingerprint there, complete?"""
    manifest = read_pointer(os.path.join(data_dir, name))
    return (
        manifest is not None
        and manifest.get("fingerprint") == fingerprint
        and missing_file(data_dir, manifest) is None
    )


def open_pointer(data_dir: str, name: str) -> dict[str, Any]:
    """The manifest of a whole data set.

    Raises UserError when there is none, or when one of its files is missing or cut short.
    """
    path = os.path.join(data_dir, name)
    manifest = read_pointer(path)
    if manifest is None:
        raise UserError(f"{path}: no such file, so there is no prepared data set; run prepare")
    broken = missing_file(data_dir, manifest)
    if broken is not None:
        raise UserError(f"{broken}: missing or cut short; prepare the data again")
    return manifest
