"""Files that must be refused, and the sentence that each gets: name -> (content, message).

The message is what follows '<path>: '. Those in LENIENT are no mistake when scoring (strict=False).
"""

import gzip


def genbank(
    bases: bytes = b"acgtacgtacgt",
    *,
    locus: bytes = b"LOCUS       X1       12 bp    DNA     linear   VRL 01-JAN-2026",
    origin: bytes | None = None,
    head: bytes = b"DEFINITION  A virus.\nACCESSION   X1\nVERSION     X1.1\n",
    end: bytes = b"//\n",
) -> bytes:
    body = b"ORIGIN\n        1 " + bases + b"\n" if origin is None else origin
    return locus + b"\n" + head + body + end


READ = b"@r1 x\nACGT\n+\nIIII\n"

BROKEN: dict[str, tuple[bytes, str]] = {
    # FASTA: letters
    "protein.fa": (
        b">sp|P1\nACGT\nMKEVLA\n",
        "record 'sp|P1', line 3: looks like protein: letter 'E' is not DNA; give "
        "nucleotide sequences",
    ),
    "protein_lower.fa": (
        b">p\nacgtf\n",
        "record 'p', line 2: looks like protein: letter 'f' is not DNA; give nucleotide sequences",
    ),
    "masked_x.fa": (
        b">a\nACGTXXXX\n",
        "record 'a', line 2: letter 'X' is not IUPAC DNA; write N for a masked base",
    ),
    "digit.fa": (
        b">a\nACGT1ACGT\n",
        "record 'a', line 2: digit '1' within the sequence; remove numbers",
    ),
    "numbered.fa": (
        b">a\n1 ACGT\n",
        "record 'a', line 2: digit '1' within the sequence; remove numbers",
    ),
    "nul.fa": (
        b">a\nACGT\nAC\x00GT\n",
        "record 'a', line 3: a NUL byte within the sequence; the file is damaged: fetch it again",
    ),
    "control.fa": (
        b">a\nAC\x07GT\n",
        "record 'a', line 2: byte 0x07 within the sequence is a control byte; fetch the file again",
    ),
    "form_feed.fa": (
        b">a\nACGT\x0c\n",
        "record 'a', line 2: byte 0x0C within the sequence is a control byte; fetch the file again",
    ),
    "not_ascii.fa": (
        b">a\nACGT\xc3\xa9\n",
        "record 'a', line 2: byte 0xC3 within the sequence is not ASCII; fetch the file again",
    ),
    "blank_within.fa": (
        b">a\nACGT ACGT\n",
        "record 'a', line 2: a blank within the sequence; remove it",
    ),
    "blank_first.fa": (
        b">a\nACGT\n ACGT\n",
        "record 'a', line 3: a blank within the sequence; remove it",
    ),
    "tab_within.fa": (
        b">a\nACGT\tACGT\n",
        "record 'a', line 2: a tab within the sequence; remove it",
    ),
    "question_mark.fa": (
        b">a\nACGT??\n",
        "record 'a', line 2: character '?' is not IUPAC DNA; remove it or write N",
    ),
    "joined_lines.fa": (
        b">a\nACGT>b\nACGT\n",
        "record 'a', line 2: '>' within the sequence; is a line end missing before it?",
    ),
    "semicolon_within.fa": (
        b">a\nAC;GT\n>b\nACGT\n",
        "record 'a', line 2: character ';' is not IUPAC DNA; remove it or write N",
    ),
    "quality_in_fasta.fa": (
        b">a\nACGT\n@b\nACGT\n",
        "record 'a', line 3: '@' within the sequence; is a line end missing before it?",
    ),
    "bom_within.fa": (
        b">a\nACGT\n\xef\xbb\xbf>b\nACGT\n",
        "record 'a', line 3: byte 0xEF within the sequence is not ASCII; fetch the file again",
    ),
    "second_record.fa": (
        b">a\r\nACGT\r\n>b d\r\nACGT\r\nAC!T\r\n",
        "record 'b', line 5: character '!' is not IUPAC DNA; remove it or write N",
    ),
    "old_mac_line.fa": (
        b">a\rACGT\r>b\rACGT\rAC!T\r",
        "record 'b', line 5: character '!' is not IUPAC DNA; remove it or write N",
    ),
    "after_comment.fa": (
        b";c\n>a\nACGT\n;d\n\nAC!T\n",
        "record 'a', line 6: character '!' is not IUPAC DNA; remove it or write N",
    ),
    "after_long_sequence.fa": (
        b">a\n" + b"ACGTTGCA\n" * 300_000 + b"E\n",
        "record 'a', line 300002: looks like protein: letter 'E' is not DNA; give "
        "nucleotide sequences",
    ),
    "one_long_line.fa": (
        b">a\n" + b"ACGTTGCA" * 300_000 + b"J\n",
        "record 'a', line 2: looks like protein: letter 'J' is not DNA; give nucleotide sequences",
    ),
    # FASTA: headers
    "no_header.fa": (
        b"ACGTACGT\n",
        "line 1: bases without a header; put a line with '>' and a name before them",
    ),
    "no_header_lines.fa": (
        b"\n\nACGTACGT\nACGT\n",
        "line 3: bases without a header; put a line with '>' and a name before them",
    ),
    "text_first.fa": (
        b"genome one\n>a\nACGT\n",
        "line 1: text before the first '>': 'genome one'; remove it or give it a header",
    ),
    "bases_first.fa": (
        b"ACGT\n>a\nACGT\n",
        "line 1: text before the first '>': 'ACGT'; remove it or give it a header",
    ),
    "text_after_comment.fa": (
        b";made by hand\n\nhello\n>a\nACGT\n",
        "line 3: text before the first '>': 'hello'; remove it or give it a header",
    ),
    "no_name.fa": (
        b">\nACGT\n",
        "line 1: the header has no name directly after '>'; write one there",
    ),
    "blank_name.fa": (
        b">a\nACGT\n> b\nACGT\n",
        "line 3: the header has no name directly after '>'; write one there",
    ),
    "tab_name.fa": (
        b">\tb\nACGT\n",
        "line 1: the header has no name directly after '>'; write one there",
    ),
    "control_a_name.fa": (
        b">\x01b\nACGT\n",
        "line 1: the header has no name directly after '>'; write one there",
    ),
    "nul_in_name.fa": (
        b">a\x00b\nACGT\n",
        "line 1: the header holds control byte 0x00; remove it or fetch the file again",
    ),
    "escape_in_header.fa": (
        b">a \x1b[31mred\nACGT\n",
        "line 1: the header holds control byte 0x1B; remove it or fetch the file again",
    ),
    "latin1_header.fa": (
        b">a S\xe3o_Paulo\nACGT\n",
        "line 1: the header holds byte 0xE3, which is not UTF-8; convert the file, for "
        "example with iconv -f latin1 -t utf-8",
    ),
    "invisible_name.fa": (
        ">a\u200bb\nACGT\n".encode(),
        "line 1: the name 'a\\u200bb' holds an invisible character; rename the record",
    ),
    "endless_header.fa": (
        b">" + b"a" * 3_000_000,
        "line 1: a header line of over 1 MiB; is this FASTA?",
    ),
    # FASTA: records
    "empty_record.fa": (
        b">a\n>b\nACGT\n",
        "record 'a', line 1: the record has no bases; remove it",
    ),
    "empty_last.fa": (
        b">a\nACGT\n>b",
        "record 'b', line 3: the record has no bases; remove it",
    ),
    "only_gaps.fa": (
        b">a\n--..**\n",
        "record 'a', line 1: the record has no bases; remove it",
    ),
    "repeated_name.fa": (
        b">a x\nACGT\n>b\nACGT\n>a y\nACGT\n",
        "record 'a', line 5: this name was used before (repeated_name.fa, line 1); "
        "names must differ: rename or remove one",
    ),
    "long_name.fa": (
        b">" + b"n" * 100 + b"\nE\n",
        "record 'nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn...', line "
        "2: looks like protein: letter 'E' is not DNA; give nucleotide sequences",
    ),
    # no records
    "empty.fa": (
        b"",
        "holds no records; leave it out or fetch it again",
    ),
    "blank.fa": (
        b"\n \n\r\n",
        "holds no records; leave it out or fetch it again",
    ),
    "only_comments.fa": (
        b";nothing\n;here\n",
        "holds no records; leave it out or fetch it again",
    ),
    "only_bom.fa": (
        b"\xef\xbb\xbf",
        "holds no records; leave it out or fetch it again",
    ),
    "empty.fa.gz": (
        b"",
        "holds 0 bytes, so it is not packed data; fetch it again",
    ),
    "empty_inside.fa.gz": (
        gzip.compress(b"", mtime=0),
        "holds no records; leave it out or fetch it again",
    ),
    # FASTQ
    "short_quality.fq": (
        b"@r1 x\nACGT\n+\nIII\n",
        "record 'r1', line 4: 3 qualities for 4 bases; the record is damaged or cut off",
    ),
    "long_quality.fq": (
        READ + b"@r2\nACGT\n+\nIIIII\n",
        "record 'r2', line 8: 5 qualities for 4 bases; the record is damaged or cut off",
    ),
    "no_quality.fq": (
        b"@r1\nACGT\n+\n",
        "record 'r1', line 4: 0 qualities for 4 bases; the record is damaged or cut off",
    ),
    "cut_after_bases.fq": (
        READ + b"@r2 y\nACGT\n",
        "record 'r2', line 5: the file ends within this record; fetch it again or remove it",
    ),
    "cut_after_name.fq": (
        READ + b"@r2",
        "record 'r2', line 5: the file ends within this record; fetch it again or remove it",
    ),
    "wrapped.fq": (
        b"@r1\nACGT\nACGT\n+\nIIII\nIIII\n",
        "record 'r1', line 3: the third line of a FASTQ record must begin with '+', "
        "found 'ACGT'; each record is four lines: name, bases, '+', qualities (unwrap "
        "it with seqtk seq)",
    ),
    "no_plus.fq": (
        READ + b"@r2\nACGT\nIIII\n@r3\nACGT\nIIII\n",
        "record 'r2', line 7: the third line of a FASTQ record must begin with '+', "
        "found 'IIII'; each record is four lines: name, bases, '+', qualities (unwrap "
        "it with seqtk seq)",
    ),
    "no_at.fq": (
        READ + b"r2\nACGT\n+\nIIII\n",
        "line 5: a FASTQ record must begin with '@', found 'r2'; each record is four "
        "lines: name, bases, '+', qualities (unwrap it with seqtk seq)",
    ),
    "other_name_after_plus.fq": (
        b"@r1\nACGT\n+r2\nIIII\n",
        "record 'r1', line 3: the name after '+' is another one: 'r2'; the file is "
        "damaged or mixed",
    ),
    "quality_blank.fq": (
        b"@r1\nACGT\n+\nI II\n",
        "record 'r1', line 4: byte 0x20 is not a quality; fetch the file again",
    ),
    "quality_control.fq": (
        b"@r1\nACGT\n+\nI\x01II\n",
        "record 'r1', line 4: byte 0x01 is not a quality; fetch the file again",
    ),
    "quality_not_ascii.fq": (
        b"@r1\nACGT\n+\nI\xffII\n",
        "record 'r1', line 4: byte 0xFF is not a quality; fetch the file again",
    ),
    "protein.fq": (
        b"@r1\nMKLV\n+\nIIII\n",
        "record 'r1', line 2: looks like protein: letter 'L' is not DNA; give nucleotide sequences",
    ),
    "colour_space.fq": (
        b"@r1\nT0123\n+\nIIIII\n",
        "record 'r1', line 2: digit '0' within the sequence; remove numbers",
    ),
    "fasta_in_fastq.fq": (
        READ + b">a\nACGT\n",
        "line 5: a FASTQ record must begin with '@', found '>a'; each record is four "
        "lines: name, bases, '+', qualities (unwrap it with seqtk seq)",
    ),
    "no_name.fq": (
        b"@\nACGT\n+\nIIII\n",
        "line 1: the header has no name directly after '@'; write one there",
    ),
    "empty_read.fq": (
        b"@r1\n\n+\n\n",
        "record 'r1', line 1: the record has no bases; remove it",
    ),
    "repeated_name.fq": (
        READ + READ,
        "record 'r1', line 5: this name was used before (repeated_name.fq, line 1); "
        "names must differ: rename or remove one",
    ),
    # GenBank
    "truncated.gb": (
        genbank(end=b""),
        "record 'X1.1', line 7: the file ends within this record, before its '//'; fetch it again",
    ),
    "truncated_head.gb": (
        genbank()[:100],
        "record 'X1', line 4: the file ends within this record, before its '//'; fetch it again",
    ),
    "no_bases.gb": (
        genbank(origin=b"CONTIG      join(X2.1:1..12)\n"),
        "record 'X1.1', line 6: the record holds no bases (only a CONTIG line); fetch "
        "the full record (NCBI: gbwithparts)",
    ),
    "no_origin.gb": (
        genbank(origin=b""),
        "record 'X1.1', line 5: the record holds no bases (no ORIGIN); fetch the full "
        "record (NCBI: gbwithparts)",
    ),
    "no_end.gb": (
        genbank(origin=b"", end=b"") + genbank(),
        "record 'X1.1', line 5: the record holds no bases (no ORIGIN); fetch the full "
        "record (NCBI: gbwithparts)",
    ),
    "length.gb": (
        genbank(b"acgtacgtac"),
        "record 'X1.1', line 7: LOCUS promises 12 bases, ORIGIN holds 10; fetch the file again",
    ),
    "lost_line.gb": (
        genbank(origin=b"ORIGIN\n        1 acgtac\n       13 acgtac\n"),
        "record 'X1.1', line 7: the line must begin with base number 7, found '13'; "
        "lines are missing or changed: fetch the file again",
    ),
    "no_numbers.gb": (
        genbank(origin=b"ORIGIN\nacgtacgtacgt\n"),
        "record 'X1.1', line 6: the line must begin with base number 1, found "
        "'acgtacgtacgt'; lines are missing or changed: fetch the file again",
    ),
    "protein.gb": (
        genbank(locus=b"LOCUS       P1     12 aa            linear   VRL 01-JAN-2026"),
        "record 'X1.1', line 1: a protein record (aa); give nucleotide records",
    ),
    "protein_letters.gb": (
        genbank(b"mkelmkelmkel"),
        "record 'X1.1', line 6: looks like protein: letter 'e' is not DNA; give "
        "nucleotide sequences",
    ),
    "digit_within.gb": (
        genbank(b"acg5acgtacgt"),
        "record 'X1.1', line 6: digit '5' within the sequence; remove numbers",
    ),
    "text_between.gb": (
        genbank() + b"hello\n" + genbank(),
        "line 8: a GenBank record must begin with LOCUS, found 'hello'; remove this text",
    ),
    "no_name.gb": (
        genbank(locus=b"LOCUS ", head=b"VERSION     .\n"),
        "line 1: the header has no name directly after 'LOCUS'; write one there",
    ),
    "blank_before_locus.gb": (
        b" " + genbank() + genbank(),
        "line 1: a GenBank record must begin with LOCUS, found ' LOCUS       X1       12 bp   '"
        "...; remove this text",
    ),
    "damaged_locus.gb": (
        b"GBVRL1.SEQ          Genetic Sequence Data Bank\n\n" + b" " + genbank() + genbank(),
        "line 9: a GenBank record must begin with LOCUS, found '//'; remove this text",
    ),
    "no_locus.gb": (
        b"GBVRL1.SEQ          Genetic Sequence Data Bank\n   February 15\n",
        "line 1: a GenBank file without a LOCUS line; fetch the file again",
    ),
    "repeated.gb": (
        genbank() * 2,
        "record 'X1.1', line 8: this name was used before (repeated.gb, line 1); names "
        "must differ: rename or remove one",
    ),
    "no_bases_at_all.gb": (
        genbank(locus=b"LOCUS       X1    0 bp    DNA", origin=b"ORIGIN\n"),
        "record 'X1.1', line 1: the record has no bases; remove it",
    ),
}

LENIENT = {
    "empty_record.fa",
    "empty_last.fa",
    "only_gaps.fa",
    "repeated_name.fa",
    "empty.fa",
    "blank.fa",
    "only_comments.fa",
    "only_bom.fa",
    "empty_inside.fa.gz",
    "empty_read.fq",
    "repeated_name.fq",
    "repeated.gb",
    "no_bases_at_all.gb",
}
