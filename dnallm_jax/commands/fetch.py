"""python main.py fetch --preset=refseq-viral --output=DIR [--limit=N] [--include_eukaryote_viruses]

Fetches public genomes for pre-training: refseq-viral, refseq-bacteria, refseq-archaea (one
assembly a species) or gtdb (one representative a genus). Every file is verified; run again, it goes
on where it was. DIR/manifest.tsv says what came and what was left out, and why; then let
config.corpus.sources name DIR/genomes, and let config.corpus.cluster_key=cluster keep a genome's
segments and relatives on one side of a split. Viruses of eukaryotes, and of unknown host, are left
out unless asked for.

  --one_per=species|genus|none               how many genomes of relatives
  --assembly_levels="Complete Genome,..."    RefSeq: which assemblies
  --refseq_categories="reference genome"     RefSeq: which assemblies
  --base_url=https://...                     a mirror of the same layout, or one release of GTDB
  --connections=4                            downloads at a time
"""

from absl import flags

from data_pipeline.errors import UserError
from dnallm_jax.commands import common


def define_flags() -> None:
    flags.DEFINE_string("preset", "", "refseq-viral, refseq-bacteria, refseq-archaea or gtdb")
    flags.DEFINE_string("output", "", "the folder to fill")
    flags.DEFINE_string("base_url", "", "the address of a mirror with the same layout")
    flags.DEFINE_integer("limit", 0, "genomes at most, the first by accession; 0 is no limit")
    flags.DEFINE_string("one_per", "", "species, genus or none; gtdb: genus, others: species")
    flags.DEFINE_list("assembly_levels", [], "RefSeq: the levels to keep")
    flags.DEFINE_list("refseq_categories", [], "RefSeq: the categories to keep")
    flags.DEFINE_bool("include_eukaryote_viruses", False, "do not leave them out")
    flags.DEFINE_integer("connections", 4, "downloads at a time, 1 to 16")


def run(arguments: list[str]) -> None:
    common.refuse_arguments(arguments)
    given = flags.FLAGS
    if not given.output:
        raise UserError("--output is missing; name a folder, for example --output=genomes/viral")

    from data_pipeline import sources

    options = sources.FetchOptions(
        preset=given.preset,
        base_url=given.base_url,
        limit=given.limit,
        one_per=given.one_per,
        assembly_levels=tuple(given.assembly_levels),
        refseq_categories=tuple(given.refseq_categories),
        include_eukaryote_viruses=given.include_eukaryote_viruses,
        connections=given.connections,
    )
    summary = sources.fetch(options, given.output, lambda line: print(line, flush=True))
    print(
        f"{given.output}: {summary['genomes']:,} genomes, {summary['sequences']:,} sequences, "
        f"{summary['bases']:,} bases ({summary['licence']})"
    )
    for reason, count in summary["left_out"].items():
        print(f"  left out: {count:,} ({reason})")
