"""python main.py score [--bundle=DIR] [--output=scores.tsv] [--resume] FILE [FILE ...]

Is this a virus, and how sure are we? Scores every record of FASTA, FASTQ or GenBank files (plain or
compressed, globs, directories, @list.txt, URLs; - reads standard input) with the detector that
comes with this program, or with a bundle that `finetune` wrote. One row a record, in input order:
sequence_id, length, virus_score (calibrated probability), is_virus (at the threshold), n_windows,
fraction_scored, strand_gap, status (ok, short, ambiguous, empty, duplicate_id). docs/score.md tells
all about them, docs/model_card.md about the detector.

  --bundle=DIR        the folder that finetune wrote, or the name of a shipped detector
  --output=FILE       .tsv, .jsonl (both also .gz, .zst) or .parquet; rows go to standard output
                      where none is named
  --format=FORMAT     tsv, jsonl or parquet, whatever the name
  --fasta-out=FILE    the sequences called viral
  --regions=FILE      where in long sequences the virus is (BED)
  --embeddings=FILE   a vector for each sequence, from the language model (Parquet)
  --summary=FILE      a page (HTML) with counts and pictures
  --resume            go on with a run that was stopped; the same command, the same bytes
  --processes=N       share the records between so many processes, on any hosts, ...
  --process=I         ... of which this is number I, from 0; the last to end makes one table
  --threshold=SCORE   call from this score on
  --fpr=RATE          call at the bundle's threshold of this false-positive rate
  --prevalence=SHARE  scores are probabilities where this share of the sequences is viral
  --min-length=BASES  do not score what is shorter; 50 where nothing is said
  --batch-size=TOKENS of a batch, about; auto
  --threads=N         of the CPU
  --quiet             no progress, no closing line
  --platform=NAME     cpu, gpu or tpu: that one or an error
  --devices=N         make the CPU look like so many devices

Exit codes: 0 done; 1 a fault of the program; 2 a mistake in the command or the input, told in one
line; 130 stopped by Ctrl-C; 141 the reader of standard output has gone.
"""

from absl import flags

from data_pipeline.errors import UserError
from dnallm_jax.commands import common

# Named as on other tools' command lines; with underscores they are understood, too.
_ALIASES = {"batch_size": "batch-size", "fasta_out": "fasta-out", "min_length": "min-length"}


def define_flags() -> None:
    common.define_device_flags()
    flags.DEFINE_string(
        "bundle", "", "the folder that finetune wrote, or a shipped detector's name"
    )
    flags.DEFINE_string("output", "-", "file for the rows; - is standard output")
    flags.DEFINE_string("format", "", "tsv, jsonl or parquet; else the ending of --output tells")
    flags.DEFINE_string("fasta-out", "", "file for the sequences called viral")
    flags.DEFINE_string("regions", "", "BED file for the stretches called viral")
    flags.DEFINE_string("embeddings", "", "Parquet file for the embedding of each sequence")
    flags.DEFINE_string("summary", "", "file for a page with counts and pictures")
    flags.DEFINE_boolean("resume", False, "go on with a run that was stopped")
    flags.DEFINE_integer("processes", 1, "how many processes share the records")
    flags.DEFINE_integer("process", 0, "which of them this is, from 0")
    flags.DEFINE_float("threshold", None, "call from this score on")
    flags.DEFINE_float("fpr", None, "call at the bundle's threshold of this false-positive rate")
    flags.DEFINE_float("prevalence", None, "share of the sequences that are viral")
    flags.DEFINE_integer("min-length", 50, "bases; what is shorter is not scored")
    flags.DEFINE_string("batch-size", "auto", "tokens of a batch, about")
    flags.DEFINE_integer("threads", 0, "of the CPU; 0: all")
    flags.DEFINE_boolean("quiet", False, "no progress, no closing line")
    for alias, name in _ALIASES.items():
        flags.DEFINE_alias(alias, name)


def run(arguments: list[str]) -> None:
    if not arguments:
        raise UserError("no input; name FASTA or FASTQ files, or - for standard input")

    import itertools
    import sys

    from data_pipeline.reading import expand, read_blocks
    from data_pipeline.spooling import spooled
    from dnallm_jax.scoring import batch, formats, settings
    from dnallm_jax.scoring.progress import Progress
    from dnallm_jax.scoring.shares import Share

    options = flags.FLAGS.flag_values_dict()
    given = {name: options[name] for name in flags.FLAGS if flags.FLAGS[name].present}
    given = {name: value for name, value in given.items() if name not in _ALIASES}
    inputs = expand(arguments)
    targets = batch.Targets(
        options["output"],
        formats.choose_format(options["output"], options["format"]),
        fasta=options["fasta-out"],
        regions=options["regions"],
        embeddings=options["embeddings"],
        summary=options["summary"],
    )
    share = Share(options["process"], options["processes"])
    targets.check(inputs, resume=options["resume"], processes=share.count)
    settings.limit_threads(options["threads"])
    # The first record before the network: what is no sequence file is refused in a second.
    records = spooled(read_blocks(inputs, strict=False))
    first = next(records, None)
    if first is None:
        raise UserError(f"{', '.join(arguments)}: no records; check that this is the right input")
    common.start_devices()

    from dnallm_jax.scoring.detector import Detector

    detector = Detector.load(
        options["bundle"] or None,
        threshold=options["threshold"],
        false_positive_rate=options["fpr"],
        prevalence=options["prevalence"],
        min_length=options["min-length"],
        batch_size=options["batch-size"],
    )
    command = settings.command_line(given, arguments)
    provenance = settings.provenance(detector.bundle, detector.calls, command)
    if options["resume"] and not share.whole:
        if batch.is_made(targets, share, provenance, inputs):
            print(f"{targets.rows}: is there; nothing is left to do", file=sys.stderr)
            return
    batch.stop_at_once(targets)
    records = itertools.chain([first], records)
    awaited: list[int] = []
    with Progress(inputs, quiet=options["quiet"], share=1 / share.count) as progress:
        if targets.streamed:
            tally = batch.score_to_stream(
                detector.bundle, detector.calls, records, targets, progress
            )
        else:
            tally, awaited = batch.score_to_files(
                detector.bundle,
                detector.calls,
                records,
                targets,
                progress,
                provenance=provenance,
                identity=settings.machine(detector.batch_tokens),
                resume=options["resume"],
                share=share,
            )
    if not options["quiet"]:
        print(tally.told(), file=sys.stderr)
        if awaited:
            names = ", ".join(map(str, awaited))
            print(
                f"{targets.rows} is made when all processes are done; still awaited: {names}",
                file=sys.stderr,
            )
