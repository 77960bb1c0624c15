"""What does a checkpoint say of itself, and is it whole?

The manifest explains a folder of arrays and holds the sha256 of every file and of itself. It is
written last, then the folder is given its name: what has one is whole, or was damaged later, and
then every flipped bit is found.
"""

import hashlib
import json
import pathlib
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dnallm_jax.training import storage

MANIFEST = "manifest.json"


class Damaged(Exception):
    """A checkpoint that is not whole; the message says which file and what is wrong with it."""


def checksums(folder: pathlib.Path) -> dict[str, str]:
    names = [name for name in storage.files(folder) if pathlib.Path(name).name != MANIFEST]

    def checksum(name: str) -> str:
        with storage.reader(folder / name) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    with ThreadPoolExecutor(8) as threads:  # which wait for a bucket, or sum on several cores
        return dict(zip(names, threads.map(checksum, names), strict=True))


def write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
    """Writes JSON that is there whole or not at all."""
    storage.write(path, _as_json(value))


def _as_json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()


def _signed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with a checksum of all the rest of it."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return {**rest, "sha256": hashlib.sha256(_as_json(rest)).hexdigest()}


def write_manifest(folder: pathlib.Path, manifest: Mapping[str, Any]) -> None:
    """Writes the manifest of a folder whose other files are all there; makes the folder whole."""
    write_json(folder / MANIFEST, _signed({**manifest, "files": checksums(folder)}))


def parse_manifest(folder: pathlib.Path) -> dict[str, Any]:
    """The manifest itself, verified; the files that it lists are not looked at."""
    path = folder / MANIFEST
    try:
        written = path.read_bytes()
        manifest = json.loads(written)
    except FileNotFoundError:
        raise Damaged(f"{folder} has no {MANIFEST} (its saving was cut off)") from None
    except ValueError as error:
        raise Damaged(f"{path} is not readable JSON ({error})") from None
    if not isinstance(manifest, dict) or written != _as_json(_signed(manifest)):
        raise Damaged(f"{path} has changed since it was written (sha256 differs)")
    return manifest


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
    """The manifest of one checkpoint or bundle, all files verified; Damaged names what is wrong."""
    manifest = parse_manifest(folder)
    found = checksums(folder)
    for name, checksum in manifest["files"].items():
        if name not in found:
            raise Damaged(f"{folder / name} is missing")
        if found[name] != checksum:
            raise Damaged(f"{folder / name} has changed since it was written (sha256 differs)")
    return manifest


def saved_steps(directory: pathlib.Path) -> list[int]:
    """The steps that have a folder in `directory`, whole or not, ascending."""
    return sorted(
        int(name) for name in storage.names(directory) if re.fullmatch("0|[1-9][0-9]*", name)
    )
