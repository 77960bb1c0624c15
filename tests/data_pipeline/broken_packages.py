"""Packed and foreign files to be refused, with their sentences; and packers for good ones."""

import bz2
import gzip
import lzma
import struct
import zlib
from collections.abc import Callable

import zstandard


def bgzip_block(data: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    body = packer.compress(data) + packer.flush()
    extra = b"BC\x02\x00" + struct.pack("<H", len(body) + 25)
    head = b"\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff\x06\x00" + extra
    return head + body + struct.pack("<II", zlib.crc32(data), len(data))


BGZIP_END = bgzip_block(b"")
GOOD = b">a\nACGTACGTAC\n"
_LONG = b">a\n" + b"ACGTTGCA" * 4000 + b"\n"
_ENDLESS = bgzip_block(GOOD)
_BLOCKS = bgzip_block(b">a\nACGT\n") + bgzip_block(b">b\nACGT\n")


def _flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]


_GZ = gzip.compress(_LONG, mtime=0)
_BZ2 = bz2.compress(_LONG)
_XZ = lzma.compress(_LONG)
_ZST = zstandard.ZstdCompressor(write_checksum=True).compress(_LONG)


def bgzip(data: bytes) -> bytes:
    return b"".join(bgzip_block(data[i : i + 999]) for i in range(0, len(data), 999)) + BGZIP_END


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gz": gzip.compress,
    "gz, several members": lambda data: (
        gzip.compress(data[:5]) + gzip.compress(b"") + gzip.compress(data[5:])
    ),
    "bgzip": bgzip,
    "gz behind bgzip": lambda data: bgzip(data[:50]) + gzip.compress(data[50:]),
    "bz2": bz2.compress,
    "bz2, several streams": lambda data: bz2.compress(data[:9]) + bz2.compress(data[9:]),
    "xz": lzma.compress,
    "xz, several streams": lambda data: lzma.compress(data[:9]) + lzma.compress(data[9:]),
    "zst": zstandard.compress,
    "zst, several frames": lambda data: (
        b"\x50\x2a\x4d\x18\x02\x00\x00\x00ab"
        + zstandard.compress(data[:9])
        + zstandard.ZstdCompressor(write_content_size=False).compress(data[9:])
    ),
}

PACKED: dict[str, tuple[bytes, str]] = {
    # packing
    "truncated.fa.gz": (
        _GZ[:-9],
        f"truncated: the gz data end in the middle, after {len(_GZ) - 9} bytes; fetch the file "
        "again",
    ),
    "truncated_early.fa.gz": (
        _GZ[:15],
        "truncated: the gz data end in the middle, after 15 bytes; fetch the file again",
    ),
    "only_magic.fa.gz": (
        _GZ[:2],
        "truncated: the gz data end in the middle, after 2 bytes; fetch the file again",
    ),
    "bad_sum.fa.gz": (
        _flipped(_GZ, len(_GZ) - 6),
        f"damaged gz data before byte {len(_GZ)} (Error -3 while decompressing data: "
        "incorrect data check); fetch the file again",
    ),
    "bad_length.fa.gz": (
        _flipped(_GZ, len(_GZ) - 2),
        f"damaged gz data before byte {len(_GZ)} (Error -3 while decompressing data: "
        "incorrect length check); fetch the file again",
    ),
    "junk_behind.fa.gz": (
        _GZ + b"junk",
        f"something that is not gz follows the gz data at byte {len(_GZ)}; fetch the file "
        "again or cut it there",
    ),
    "zeros_behind.fa.gz": (
        _GZ + bytes(512),
        f"something that is not gz follows the gz data at byte {len(_GZ)}; fetch the file "
        "again or cut it there",
    ),
    "second_member_truncated.fa.gz": (
        (_GZ + _GZ)[:-4],
        f"truncated: the gz data end in the middle, after {2 * len(_GZ) - 4} bytes; fetch the file "
        "again",
    ),
    "bgzip_without_end.fa.gz": (
        _ENDLESS,
        f"truncated: bgzip data without their end block, after {len(_ENDLESS)} bytes; fetch the "
        "file again, or pack it again with bgzip",
    ),
    "bgzip_block_lost.fa.gz": (
        _BLOCKS,
        f"truncated: bgzip data without their end block, after {len(_BLOCKS)} bytes; fetch the "
        "file again, or pack it again with bgzip",
    ),
    "truncated.fa.bz2": (
        _BZ2[:-5],
        f"truncated: the bz2 data end in the middle, after {len(_BZ2) - 5} bytes; fetch the file "
        "again",
    ),
    "flipped.fa.bz2": (
        _flipped(_BZ2, 20),
        f"damaged bz2 data before byte {len(_BZ2)} (Invalid data stream); fetch the file again",
    ),
    "junk_behind.fa.bz2": (
        _BZ2 + b"junk",
        f"something that is not bz2 follows the bz2 data at byte {len(_BZ2)}; fetch the file "
        "again or cut it there",
    ),
    "truncated.fa.xz": (
        _XZ[:-5],
        f"truncated: the xz data end in the middle, after {len(_XZ) - 5} bytes; fetch the file "
        "again",
    ),
    "flipped.fa.xz": (
        _flipped(_XZ, len(_XZ) // 2),
        f"damaged xz data before byte {len(_XZ)} (Corrupt input data); fetch the file again",
    ),
    "junk_behind.fa.xz": (
        _XZ + b"junk",
        f"something that is not xz follows the xz data at byte {len(_XZ)}; fetch the file "
        "again or cut it there",
    ),
    "truncated.fa.zst": (
        _ZST[:-1],
        f"truncated: the zst data end in the middle, after {len(_ZST) - 1} bytes; fetch the file "
        "again",
    ),
    "bad_sum.fa.zst": (
        _flipped(_ZST, len(_ZST) - 2),
        f"damaged zst data before byte {len(_ZST)} (zstd decompressor error: Restored data "
        "doesn't match checksum); fetch the file again",
    ),
    "junk_behind.fa.zst": (
        _ZST + b"junk",
        f"something that is not zst follows the zst data at byte {len(_ZST)}; fetch the file "
        "again or cut it there",
    ),
    "packed_twice.fa.gz": (
        gzip.compress(_GZ, mtime=0),
        "gz data packed a second time; unpack it once",
    ),
    "packed_broken_record.fa.gz": (
        gzip.compress(b">a\nACGT\n>b\nQ\n", mtime=0),
        "record 'b', line 4: looks like protein: letter 'Q' is not DNA; give nucleotide sequences",
    ),
    # other kinds of file
    "archive.zip": (
        b"PK\x03\x04" + bytes(30),
        "this is a zip archive; unpack it first",
    ),
    "genomes.tar": (
        (b"a.fa" + bytes(253) + b"ustar\x0000" + bytes(247) + GOOD).ljust(2048, b"\0"),
        "this is a tar archive; unpack it first",
    ),
    "reads.bam": (
        bgzip_block(b"BAM\x01" + bytes(40)) + BGZIP_END,
        "this is a BAM file; convert it with samtools fastq or samtools fasta",
    ),
    "reads.sam": (
        b"@HD\tVN:1.6\n@SQ\tSN:a\tLN:4\n",
        "this is a SAM file; convert it with samtools fastq or samtools fasta",
    ),
    "utf16.fa": (
        ">a\nACGT\n".encode("utf-16"),
        "this is UTF-16 text; save it as plain ASCII text",
    ),
    "page.html": (
        b"<!DOCTYPE html>\n<html>404</html>\n",
        "this is HTML or XML, perhaps an error page saved as a file; fetch the file again",
    ),
    "genes.gff": (
        b"##gff-version 3\na\t.\tgene\t1\t4\n",
        "this is a GFF file; give the FASTA file that belongs to it",
    ),
    "calls.vcf": (
        b"##fileformat=VCFv4.2\n",
        "this is a VCF file; give FASTA, FASTQ or GenBank",
    ),
    "x.embl": (
        b"ID   X1; SV 1; linear; DNA; STD; VRL; 12 BP.\n",
        "this is an EMBL or Swiss-Prot file; convert it to FASTA or GenBank",
    ),
    "pointer.fa": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
        "this is a Git LFS pointer, not the file itself; run git lfs pull",
    ),
    "table.tsv": (
        b"contig\tlabel\na\t1\n",
        "line 1: not FASTA, FASTQ or GenBank, which begin with '>', '@' or 'LOCUS': "
        "found 'contig'...; a table of sequences "
        "has the columns id and sequence; check that this is the right file",
    ),
    "random.bin": (
        bytes(range(128, 256)) * 4,
        "line 1: not FASTA, FASTQ or GenBank, which begin with '>', '@' or 'LOCUS': "
        "found '\\x80\\x81\\x82\\x83\\x84\\x85'...; a table of sequences "
        "has the columns id and sequence; check that this is the right file",
    ),
    "zeros.fa": (
        bytes(4096),
        "line 1: not FASTA, FASTQ or GenBank, which begin with '>', '@' or 'LOCUS': "
        "found '\\x00\\x00\\x00\\x00\\x00\\x00'...; a table of sequences "
        "has the columns id and sequence; check that this is the right file",
    ),
}
