"""How are buckets reached, and how does a data set travel between this machine and one (gs://)?

ArrayRecord files are read at random places, so they are read from a local disk: each host of a run
copies the data set once. Its pointer file comes last, so that in either place it names what is
there whole.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import urllib.parse
from collections.abc import Iterator
from typing import Any

from data_pipeline.errors import UserError

CLOUD = ("gs://", "s3://")
"""Kinds of bucket that sequences are read from; only the first kind is written to."""


def in_bucket(path: str | os.PathLike[str]) -> bool:
    """Whether a workdir (or what lies in it) is in a bucket."""
    return os.fspath(path).startswith("gs://")


def filesystem(uri: str) -> tuple[Any, str]:
    """The fsspec file system of a gs:// or s3:// address, and the address as it calls it.

    It keeps no listings: other processes, and other libraries, write to the same place. Of s3:// it
    is Arrow's, which comes with TFDS, as no s3fs goes with the other packages' versions.
    """
    import fsspec  # comes with etils[epath]; only needed here

    if uri.startswith("s3://"):
        return _s3(uri)
    try:
        return fsspec.core.url_to_fs(uri, use_listings_cache=False)
    except ImportError as problem:
        raise UserError(
            f"{uri}: reading gs:// needs the package gcsfs; install requirements-cloud.txt"
        ) from problem


def _s3(uri: str) -> tuple[Any, str]:
    """Signed where the variables or the file of AWS's tools say who asks; else as anybody.

    (Looking for the role of a cloud machine takes long where there is none: AWS_PROFILE=default
    asks for it.)
    """
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow import fs

    told = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN")
    file = os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")
    signed = any(map(os.environ.get, told)) or os.path.exists(os.path.expanduser(file))
    endpoint = urllib.parse.urlsplit(
        os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    )
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    name = uri.removeprefix("s3://")
    with _told(uri):
        if not region and not endpoint.netloc:
            region = fs.resolve_s3_region(name.split("/")[0])
        system = fs.S3FileSystem(
            anonymous=not signed,
            region=region,
            endpoint_override=endpoint.netloc or None,
            scheme=endpoint.scheme or "https",
        )
    return ArrowFSWrapper(system, skip_instance_cache=True), name


def local(data_dir: str) -> str:
    """Where a data set lies, or will lie, on this machine's disk: where it is, if in no bucket."""
    if not in_bucket(data_dir):
        return data_dir
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    name = hashlib.sha256(data_dir.encode()).hexdigest()[:16]
    return str(home / "dnallm_jax" / "data" / name)


def fetched(data_dir: str, pointer: str) -> str:
    """The data set's folder on this machine, after copying from the bucket what it lacks.

    Processes of one machine wait for the one that copies. A bucket without the pointer file, or one
    that cannot be reached, is a UserError.
    """
    place = local(data_dir)
    if place == data_dir:
        return place
    files, root = filesystem(data_dir)
    with _alone(place), _told(data_dir):
        try:
            said = files.cat_file(f"{root}/{pointer}")
        except FileNotFoundError:
            raise UserError(
                f"{data_dir}/{pointer}: no such object, so there is no prepared data set; run "
                "prepare with this --workdir"
            ) from None
        manifest = json.loads(said)
        folder = manifest["folder"]
        os.makedirs(os.path.join(place, folder), exist_ok=True)
        for name, size in manifest["files"].items():
            path = os.path.join(place, folder, name)
            if not os.path.exists(path) or os.path.getsize(path) != size:
                files.get_file(f"{root}/{folder}/{name}", f"{path}.partial")
                os.replace(f"{path}.partial", path)
        with open(os.path.join(place, f"{pointer}.partial"), "wb") as file:
            file.write(said)
        os.replace(os.path.join(place, f"{pointer}.partial"), os.path.join(place, pointer))
    return place


def send(data_dir: str, pointer: str) -> None:
    """Copies the data set that lies at `local(data_dir)` into its bucket; none, if in no bucket."""
    place = local(data_dir)
    if place == data_dir:
        return
    files, root = filesystem(data_dir)
    with open(os.path.join(place, pointer), "rb") as file:
        said = file.read()
    manifest = json.loads(said)
    with _told(data_dir):
        for name in manifest["files"]:
            name = f"{manifest['folder']}/{name}"
            files.put_file(os.path.join(place, name), f"{root}/{name}")
        files.pipe_file(f"{root}/{pointer}", said)


@contextlib.contextmanager
def _alone(place: str) -> Iterator[None]:
    """Waits until no other process of this machine is in here."""
    os.makedirs(place, exist_ok=True)
    with open(os.path.join(place, ".copying"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _told(uri: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as problem:  # the plug-in raises types of its own that cannot be named here
        reason = " ".join(str(problem).split()) or type(problem).__name__
        raise UserError(
            f"{uri}: the bucket does not do what is asked of it ({reason}); check the address and "
            "your access to it"
        ) from problem
