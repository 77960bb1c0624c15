"""How do sources that can be read only once, or from elsewhere, become files for `prepare`?"""

import hashlib
import os
import posixpath
import urllib.parse
from collections.abc import Iterable, Sequence

from data_pipeline.buckets import CLOUD
from data_pipeline.datasets import ADDRESS, make_folder
from data_pipeline.download import download, split_checksum
from data_pipeline.errors import UserError
from data_pipeline.opening import expand, raw_blocks

_WEB = ("http://", "https://")


def saved(patterns: Sequence[str], folder: str, root: str = "") -> tuple[str, ...]:
    """What the patterns of `opening.expand` name, with "-" and what is elsewhere saved in `folder`.

    An address (web, gs://, s3://) is fetched once: to have a file again, delete it there. Standard
    input is saved anew each time. A file appears under its name only when it is whole, that of an
    address beside one with the ending ADDRESS which tells it; UserError as in `download`.
    """
    paths = []
    for path in expand(patterns, root) if patterns else []:
        if path == "-" or path.startswith((*_WEB, *CLOUD)):
            make_folder(folder)
            source, path = path, os.path.join(folder, _name(path))
            if source == "-" or not os.path.exists(path):
                if source.startswith(_WEB):
                    download(source, f"{path}.partial")
                else:
                    _write(raw_blocks(source), f"{path}.partial")
                if source != "-":
                    _write([source.encode()], f"{path}{ADDRESS}")
                os.replace(f"{path}.partial", path)
        paths.append(path)
    return tuple(paths)


def _write(blocks: Iterable[bytes], path: str) -> None:
    try:
        with open(path, "wb") as file:
            file.writelines(blocks)
    except OSError as problem:  # what cannot be read is a UserError already
        raise UserError(
            f"{path}: cannot be written ({problem.strerror}); free some space, or choose another "
            "--workdir"
        ) from problem


def _name(source: str) -> str:
    """A file name that tells the address, and differs between addresses and checksums."""
    if source == "-":
        return "standard-input"
    address = source if source.startswith(CLOUD) else split_checksum(source)[0]
    stem = posixpath.basename(urllib.parse.urlsplit(address).path) or "download"
    return f"{hashlib.sha256(source.encode()).hexdigest()[:8]}-{stem}"
