"""Which bytes does a name on the command line stand for? Finds, opens and unpacks sequence files.

Names are files, globs, directories, '@list.txt', '-' (standard input), http(s):// and gs:// or s3://.
The packing is told from the first bytes, never from the name: plain, gz (several members, bgzip),
bz2, xz, zst. Data that end early, fail their checksum or are followed by anything else are refused,
so that a broken copy is never read as a shorter file.
"""

import bz2
import contextlib
import functools
import glob
import itertools
import lzma
import os
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import zstandard

from data_pipeline.buckets import CLOUD, filesystem
from data_pipeline.download import download, split_checksum
from data_pipeline.errors import UserError

BLOCK = 1 << 20
"""Bytes in a block: what is read at a time, and the least that is handed on (but at the end)."""

STDIN = "-"
ENDINGS = tuple(
    f".{kind}{packed}"
    for kind in (
        *("fa", "fasta", "fas", "fna", "ffn", "frn", "fsa", "mfa"),
        *("fq", "fastq", "gb", "gbk", "gbff", "genbank"),
    )
    for packed in ("", ".gz", ".bgz", ".bz2", ".xz", ".zst")
)
"""Names that count as sequence files when a directory is searched."""

_WEB = ("http://", "https://")


def expand(patterns: Sequence[str], root: str = "") -> list[str]:
    """The single inputs that `patterns` name, in the order given; within one pattern, sorted.

    A pattern is a file, a glob (`**` crosses directories), a directory (searched at every depth,
    links followed, for names ending in ENDINGS, hidden ones left out), '@list.txt' (a file of
    patterns, one a line; blank lines and lines with '#' first are skipped), '-', an http(s)://
    address (with '#sha256=...' or '#md5=...' behind it the download is checked), or a gs:// or
    s3:// object, glob or, ending in '/', folder. Paths, those in lists too, are relative to `root`,
    by default the working directory. Expanding a result again, without root, gives it back.

    Raises UserError for a pattern that matches nothing and for an input named twice.
    """
    if isinstance(patterns, str):
        raise TypeError("expand takes a sequence of patterns, not one string")
    inputs: list[str] = []
    known: dict[str, str] = {}
    for path in itertools.chain.from_iterable(_matches(pattern, root) for pattern in patterns):
        identity = path if _is_remote(path) or path == STDIN else os.path.realpath(path)
        if identity in known:
            same = "" if known[identity] == path else f" (it is the same file as {known[identity]})"
            raise UserError(f"{shown(path)}: named twice{same}; name each input once")
        known[identity] = path
        inputs.append(path)
    if not inputs:
        raise UserError("no input is named; give files, folders, globs, '@list.txt', '-' or URLs")
    return inputs


def shown(path: str) -> str:
    """The name of an input as messages say it."""
    return "standard input" if path == STDIN else path


def is_regular(path: str) -> bool:
    """Can the input be read a second time from the local disk?"""
    return path != STDIN and not _is_remote(path) and os.path.isfile(path)


def packing_of(head: bytes) -> str:
    """'gz', 'bz2', 'xz', 'zst', or '' for anything else, told from the first bytes of a file."""
    return next((p.name for p in _PACKINGS if head.startswith(p.magic)), "")


def read_bytes(path: str) -> Iterator[bytes]:
    """The unpacked content of one input of `expand`, in blocks of BLOCK bytes or more but the last.

    Raises UserError when the input cannot be opened or read, or its packed data are truncated, fail
    their checksum or are followed by something else. The error comes when the damage is reached:
    what was yielded before is not the whole file.
    """
    raw = _gather(raw_blocks(path))
    first = next(raw, b"")
    packing = next((p for p in _PACKINGS if first.startswith(p.magic)), None)
    if packing is None:
        if not first and path.endswith((".gz", ".bgz", ".bz2", ".xz", ".zst")):
            raise UserError(f"{path}: holds 0 bytes, so it is not packed data; fetch it again")
        yield from itertools.chain([first] if first else [], raw)
    else:
        yield from _gather(_unpack(itertools.chain([first], raw), packing, shown(path)))


# --- finding --------------------------------------------------------------------------------------


def _is_remote(path: str) -> bool:
    return path.startswith((*_WEB, *CLOUD))


def _matches(pattern: str, root: str) -> list[str]:
    if pattern == STDIN:
        return [STDIN]
    if pattern.startswith(_WEB):
        split_checksum(pattern)  # a mistyped checksum is told before hours of download
        return [pattern]
    if pattern.startswith(CLOUD):
        return _cloud_matches(pattern)
    if "://" in pattern:
        raise UserError(
            f"{pattern}: unknown kind of address; http://, https://, gs:// and s3:// are read"
        )
    if pattern.startswith("@"):
        return _listed(os.path.join(root, pattern[1:]), root)
    pattern = pattern and os.path.join(root, pattern)
    if os.path.isdir(pattern):
        return _folder(pattern)
    if os.path.exists(pattern):
        return [pattern]
    if glob.has_magic(pattern):
        files = sorted(p for p in glob.glob(pattern, recursive=True) if not os.path.isdir(p))
        if not files:
            raise UserError(f"{pattern}: no file matches this pattern; check the folder and ending")
        # A file called '-' or '@x' must not turn into something else when it is expanded again.
        return [f"./{p}" if p == STDIN or p.startswith("@") else p for p in files]
    raise UserError(f"{pattern or repr(pattern)}: no such file or directory; check the path")


def _folder(folder: str) -> list[str]:
    def refuse(problem: OSError) -> None:
        raise UserError(
            f"{problem.filename}: the directory cannot be read ({_reason(problem)})"
        ) from problem

    files: list[str] = []
    known = set()  # folders, that a link to one of them does not lead round in circles
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        if (real := os.path.realpath(place)) in known:
            folders.clear()
            continue
        known.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [
            os.path.join(place, name)
            for name in names
            if name.lower().endswith(ENDINGS) and not name.startswith(".")
        ]
    if not files:
        raise UserError(
            f"{folder}: a directory without sequence files; name files, or let their names end in "
            ".fa, .fasta, .fna, .fq, .fastq, .gb, .gbk, .gbff (with .gz, .bz2, .xz, .zst if packed)"
        )
    return sorted(files)


def _listed(path: str, root: str) -> list[str]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            rows = [row.strip() for row in file]
    except OSError as problem:
        raise UserError(f"{path}: the list cannot be read ({_reason(problem)})") from problem
    except UnicodeDecodeError as problem:
        raise UserError(
            f"{path}: not a list of paths in plain text; name sequence files without '@'"
        ) from problem
    inputs: list[str] = []
    for number, row in enumerate(rows, 1):
        if not row or row.startswith("#"):
            continue
        if row.startswith("@"):
            raise UserError(f"{path}, line {number}: a list inside a list; name its files here")
        try:
            inputs += _matches(row, root)
        except UserError as problem:
            raise UserError(f"{path}, line {number}: {problem}") from problem
    if not inputs:
        raise UserError(f"{path}: the list names no file; write one path a line")
    return inputs


# --- opening --------------------------------------------------------------------------------------


def raw_blocks(path: str) -> Iterator[bytes]:
    """The content of an input as it lies there, in blocks of 1 to BLOCK bytes.

    UserError when it cannot be read.
    """
    if path == STDIN:
        if sys.stdin.isatty():
            raise UserError("standard input is a terminal; pipe a file into it or name the file")
        return _blocks(lambda: contextlib.nullcontext(sys.stdin.buffer), shown(path))
    if path.startswith(_WEB):
        return _web_blocks(path)
    if path.startswith(CLOUD):
        return _cloud_blocks(path)
    return _blocks(functools.partial(_open_file, path), path)


def _blocks(
    opened: Callable[[], contextlib.AbstractContextManager[BinaryIO]], name: str
) -> Iterator[bytes]:
    try:
        with opened() as file:
            while block := file.read(BLOCK):
                yield block
    except (OSError, ValueError) as problem:  # ValueError: a NUL byte in the name
        raise UserError(
            f"{name}: cannot be read ({_reason(problem)}); check the path and your access to it"
        ) from problem


def _open_file(path: str) -> BinaryIO:
    return open(path, "rb", buffering=0)


def _web_blocks(url: str) -> Iterator[bytes]:
    with tempfile.TemporaryDirectory(prefix="dnallm-") as folder:
        path = os.path.join(folder, "download")
        download(url, path)
        yield from _blocks(functools.partial(_open_file, path), url)


def _cloud_matches(uri: str) -> list[str]:
    if not (glob.has_magic(uri) or uri.endswith("/")):
        return [uri]
    system, name = filesystem(uri)
    try:
        found = system.find(name) if uri.endswith("/") else system.glob(name)
    except Exception as problem:  # the plug-ins raise types of their own that cannot be named here
        raise UserError(f"{uri}: cannot be listed ({_reason(problem)}); check access") from problem
    if uri.endswith("/"):
        found = [path for path in found if path.lower().endswith(ENDINGS)]
    if not found:
        raise UserError(f"{uri}: no sequence file is found there; check the address and ending")
    scheme = uri[: uri.index("//") + 2]
    return sorted(scheme + path.split("://")[-1].lstrip("/") for path in found)


def _cloud_blocks(uri: str) -> Iterator[bytes]:
    system, name = filesystem(uri)
    try:
        with system.open(name, "rb") as file:
            while block := file.read(BLOCK):
                yield block
    except Exception as problem:  # the plug-ins raise types of their own that cannot be named here
        raise UserError(
            f"{uri}: cannot be read ({_reason(problem)}); check the address and your access to it"
        ) from problem


def _reason(problem: Exception) -> str:
    text = (isinstance(problem, OSError) and problem.strerror) or str(problem)
    return " ".join(text.split()) or type(problem).__name__


# --- unpacking ------------------------------------------------------------------------------------


class _Packing(NamedTuple):
    name: str
    magic: tuple[bytes, ...]  # a stream of this packing begins with one of these
    new: Callable[[], Any]  # makes a decoder of one stream; it has .eof and .unused_data
    step: Callable[[Any, bytes], tuple[bytes, bytes, bool]]  # -> unpacked, left over, more waits?
    errors: tuple[type[Exception], ...]
    piece: int  # packed bytes fed at a time


_MOST = 4 * BLOCK  # unpacked at one step, so that a run of N cannot fill the memory


def _step_gz(decoder: Any, data: bytes) -> tuple[bytes, bytes, bool]:
    out = decoder.decompress(data, _MOST)
    return out, decoder.unconsumed_tail, len(out) == _MOST and not decoder.eof


def _step_bz2_xz(decoder: Any, data: bytes) -> tuple[bytes, bytes, bool]:
    out = decoder.decompress(data, _MOST)
    return out, b"", not (decoder.eof or decoder.needs_input)


def _step_zst(decoder: Any, data: bytes) -> tuple[bytes, bytes, bool]:
    return decoder.decompress(data), b"", False


_PACKINGS = (
    _Packing(
        "gz", (b"\x1f\x8b",), lambda: zlib.decompressobj(31), _step_gz, (zlib.error,), 1 << 18
    ),
    _Packing("bz2", (b"BZh",), bz2.BZ2Decompressor, _step_bz2_xz, (OSError, ValueError), 1 << 18),
    _Packing(
        "xz",
        (b"\xfd7zXZ\x00",),
        lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ),
        _step_bz2_xz,
        (lzma.LZMAError,),
        1 << 18,
    ),
    _Packing(
        "zst",  # 0x184D2A50 to 5F begin frames to be skipped, which parallel packers write
        (b"\x28\xb5\x2f\xfd", *(bytes((n, 0x2A, 0x4D, 0x18)) for n in range(0x50, 0x60))),
        lambda: zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj(),  # --long=31
        _step_zst,
        (zstandard.ZstdError,),
        1 << 9,  # its decoder has no limit on what one call unpacks: 16 MiB from 512 bytes of N
    ),
)
_LONGEST_HEAD = 18  # bytes of a stream that must be at hand to know it: a bgzip block's header


def _unpack(raw: Iterable[bytes], packing: _Packing, name: str) -> Iterator[bytes]:
    """Unpack streams of one packing, one behind the other, to the end of the input."""
    decoder: Any = None
    data = b""  # packed bytes that no decoder has taken yet
    taken = 0  # packed bytes read so far, `data` included
    unpacked = 0  # bytes that came out of the current stream
    bgzip = waiting = False
    pieces = (
        block[i : i + packing.piece] for block in raw for i in range(0, len(block), packing.piece)
    )
    for piece in itertools.chain(pieces, (b"",)):
        data = data + piece if data else piece
        taken += len(piece)
        while data or waiting:
            if decoder is None:
                if piece and len(data) < _LONGEST_HEAD:
                    break
                if not data.startswith(packing.magic):
                    raise UserError(
                        f"{name}: something that is not {packing.name} follows the {packing.name} "
                        f"data at byte {taken - len(data)}; fetch the file again or cut it there"
                    )
                decoder, unpacked = packing.new(), 0
                bgzip = data.startswith(b"\x1f\x8b\x08\x04") and data[12:16] == b"BC\x02\x00"
            try:
                out, data, waiting = packing.step(decoder, data)
            except packing.errors as problem:
                raise UserError(
                    f"{name}: damaged {packing.name} data before byte {taken} "
                    f"({_reason(problem)}); fetch the file again"
                ) from problem
            unpacked += len(out)
            if out:
                yield out
            if decoder.eof:
                data, decoder = decoder.unused_data, None
    if decoder is not None:
        raise UserError(
            f"{name}: truncated: the {packing.name} data end in the middle, after {taken} bytes; "
            "fetch the file again"
        )
    if bgzip and unpacked:  # whole blocks are missing: only the empty end block tells
        raise UserError(
            f"{name}: truncated: bgzip data without their end block, after {taken} bytes; "
            "fetch the file again, or pack it again with bgzip"
        )


def _gather(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in blocks of at least BLOCK bytes, but for the last."""
    parts: list[bytes] = []
    size = 0
    for block in blocks:
        parts.append(block)
        size += len(block)
        if size >= BLOCK:
            yield b"".join(parts) if len(parts) > 1 else block
            parts, size = [], 0
    if size:
        yield b"".join(parts)
