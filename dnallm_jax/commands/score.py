"""python main.py score --bundle=DIR [--output=scores.tsv] FILE [FILE ...]

Is this a virus, and how sure are we? Scores every record of FASTA, FASTQ or GenBank files (plain or
compressed, globs, directories, URLs; - reads standard input) with a bundle that `finetune` wrote.
One row a record, in input order: sequence_id, length, virus_score (calibrated probability),
is_virus (at the bundle's threshold), n_windows, fraction_scored, strand_gap, status (ok, short,
ambiguous, empty, duplicate_id).
"""

from absl import flags

from data_pipeline.errors import UserError
from dnallm_jax.commands import common


def define_flags() -> None:
    common.define_device_flags()
    flags.DEFINE_string("bundle", "", "the folder that finetune wrote")
    flags.DEFINE_string("output", "-", "TSV file; - is standard output")
    flags.DEFINE_integer("batch_tokens", 16_384, "tokens of a batch, about")


def run(arguments: list[str]) -> None:
    if not flags.FLAGS.bundle:
        raise UserError("--bundle is missing; name the folder that finetune wrote")
    if not arguments:
        raise UserError("no input; name FASTA or FASTQ files, or - for standard input")

    import itertools
    import os
    import pathlib
    import sys

    from data_pipeline.reading import expand, read_records

    inputs, target = expand(arguments), flags.FLAGS.output
    if os.path.isfile(target) and any(
        os.path.exists(path) and os.path.samefile(path, target) for path in inputs
    ):
        raise UserError(f"--output={target} is also an input; choose another name")
    # The first record before the network: what is no sequence file is refused in a second.
    records = read_records(inputs, strict=False)
    first = next(records, None)
    if first is None:
        raise UserError(f"{', '.join(arguments)}: no records; check that this is the right input")
    common.start_devices()

    from dnallm_jax.parallel.execution import choose
    from dnallm_jax.parallel.mesh import make_mesh
    from dnallm_jax.scoring import bundle, output

    execution, _ = choose()
    detector = bundle.open_bundle(
        pathlib.Path(flags.FLAGS.bundle),
        execution,
        make_mesh(data=-1, fsdp=1),  # each device holds the whole network, so any number will do
        batch_tokens=flags.FLAGS.batch_tokens,
    )
    rows = output.results(detector, itertools.chain([first], records))
    count = output.write_tsv(target, rows)
    print(f"{count:,} records scored", file=sys.stderr)
