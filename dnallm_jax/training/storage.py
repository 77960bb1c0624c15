"""Where do the files of a run lie: on a file system, or in a bucket (gs://)? Both keep one promise.

What has its name there is whole. A file system renames what is finished. A bucket has no folders to
rename and no locks: there the mark `NAME.unfinished`, an object, stands beside a folder while it is
written or removed, and whoever runs holds a lease that he renews (`lease.py`). Paths in a bucket
have the methods of pathlib (etils.epath), so that most code need not know.
"""

import contextlib
import io
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any, cast

from data_pipeline import buckets
from data_pipeline.buckets import in_bucket
from data_pipeline.datasets import sole_writer
from data_pipeline.errors import UserError
from dnallm_jax.training.lease import leased

UNFINISHED = ".unfinished"  # ends the name of a folder, or of its mark, until it is whole
_BLOCK = 1 << 25  # bytes of one request when an object is read from its beginning to its end


def folder(name: str) -> pathlib.Path:
    """The absolute path of a folder, which may be gs://BUCKET/PATH.

    Raises UserError for other kinds of address, and where the package for buckets is missing.
    """
    if not in_bucket(name):
        if "://" in name:
            raise UserError(f"{name} is neither a folder nor gs://BUCKET/PATH")
        return pathlib.Path(name).absolute()
    import fsspec
    from etils import epath

    buckets.filesystem(name)  # is the package there?
    # Others write to the same place, Orbax's own storage library among them.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    return cast(pathlib.Path, epath.Path(name.rstrip("/")))


def files(folder: pathlib.Path) -> dict[str, int]:
    """The bytes of every file at any depth of a folder, by its name below it, sorted."""
    if not in_bucket(folder):
        found = [path for path in folder.rglob("*") if path.is_file()]
        return {str(p.relative_to(folder)): p.stat().st_size for p in sorted(found)}
    system, root = buckets.filesystem(os.fspath(folder))
    listed = system.find(root, detail=True)
    sizes = {
        name.removeprefix(f"{root}/"): entry["size"]
        for name, entry in listed.items()
        if entry["type"] == "file" and name.startswith(f"{root}/")
    }
    return dict(sorted(sizes.items()))


def reader(path: pathlib.Path) -> contextlib.AbstractContextManager[io.BufferedReader]:
    """Opens a file to be read from its beginning to its end."""
    if not in_bucket(path):
        return path.open("rb")
    system, name = buckets.filesystem(os.fspath(path))
    return system.open(name, "rb", block_size=_BLOCK)


def write(path: pathlib.Path, data: bytes) -> None:
    """Writes a file that is there whole or not at all, and stays when the machine goes down."""
    if in_bucket(path):
        path.write_bytes(data)  # one request
        return
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def begin(folder: pathlib.Path) -> pathlib.Path:
    """Makes the place where the files of a new folder are written until it is `complete`."""
    mark = _mark(folder)
    if in_bucket(folder):
        mark.write_bytes(b"not whole\n")
        return folder
    mark.mkdir(parents=True)
    return mark


def begin_again(folder: pathlib.Path, last: str) -> None:
    """The same for a folder that may be there, which stays until the new one is complete.

    In a bucket it goes first: two of one name cannot be there.
    """
    if in_bucket(folder):
        if folder.exists():
            remove(folder, last)
    else:
        for left in (_mark(folder), _old(folder)):  # by a run that was killed here
            shutil.rmtree(left, ignore_errors=True)
    begin(folder)


def place(folder: pathlib.Path) -> pathlib.Path:
    """What `begin` said, or will say, of it."""
    return folder if in_bucket(folder) else _mark(folder)


def complete(folder: pathlib.Path) -> None:
    """Gives the folder its name, in the place of what had it; all of its files are there."""
    if in_bucket(folder):
        _mark(folder).unlink()
        return
    if folder.exists():
        folder.rename(_old(folder))
    _mark(folder).rename(folder)
    shutil.rmtree(_old(folder), ignore_errors=True)


def remove(folder: pathlib.Path, last: str) -> None:
    """Removes a folder; cut off, it leaves no doubt about what is left. `last` makes it whole."""
    if not in_bucket(folder):
        shutil.rmtree(folder.rename(_mark(folder)))
        return
    _mark(folder).write_bytes(b"being removed\n")
    (folder / last).unlink(missing_ok=True)
    _remove_all(folder)
    _mark(folder).unlink()


def sweep(directory: pathlib.Path, last: str) -> Iterator[pathlib.Path]:
    """Removes what was cut off when it was written or removed, and yields the name of each.

    In a bucket, a folder that has its `last` file has all: only its mark is taken away.
    """
    for mark in sorted(directory.glob(f"*{UNFINISHED}")):
        if not in_bucket(directory):
            shutil.rmtree(mark)
            yield mark
            continue
        cut = mark.with_name(mark.name.removesuffix(UNFINISHED))
        if not (cut / last).exists():
            _remove_all(cut)
            yield cut
        mark.unlink()


def names(directory: pathlib.Path) -> list[str]:
    """The folders in a directory that have their name: those that nobody writes or removes."""
    if not directory.is_dir():
        return []
    found = {path.name: path for path in directory.iterdir()}
    marked = {name + UNFINISHED for name in found} & set(found) if in_bucket(directory) else set()
    return [n for n, path in found.items() if n + UNFINISHED not in marked and path.is_dir()]


class Staging:
    """A folder to append to: itself, or for one in a bucket a place on this machine's disk."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._bucket = folder if in_bucket(folder) else None
        self.folder = pathlib.Path(tempfile.mkdtemp()) if self._bucket else folder

    def bring(self, *names: str) -> None:
        """Copies those of these files that are in the bucket to the place."""
        for name in names:
            if self._bucket and (self._bucket / name).exists():
                (self.folder / name).write_bytes((self._bucket / name).read_bytes())

    def send(self) -> None:
        """Copies all that lies in the place to the bucket."""
        if self._bucket:
            for name in files(self.folder):
                write(self._bucket / name, (self.folder / name).read_bytes())

    def close(self) -> None:
        """The same for the last time."""
        self.send()
        if self._bucket:
            shutil.rmtree(self.folder)


def sole_run(folder: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    """Holds a folder against a second run; UserError when there is one."""
    return leased(folder) if in_bucket(folder) else sole_writer(str(folder), "run")


def _mark(folder: pathlib.Path) -> pathlib.Path:
    return folder.with_name(folder.name + UNFINISHED)


def _old(folder: pathlib.Path) -> pathlib.Path:
    return folder.with_name(folder.name + ".old")


def _remove_all(folder: pathlib.Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        cast(Any, folder).rmtree()
