"""One short file per command: wires rooms together, holds no logic of its own.

Each has a docstring (its --help), `define_flags()` and `run(arguments)`, and imports what is
heavy inside `run`, so that --help answers at once.
"""

COMMANDS = {
    "demo": "simulated genomes through every step below, in under two minutes on two CPU cores",
    "fetch": "public genomes (RefSeq, GTDB) -> verified FASTA files with a manifest",
    "prepare": "FASTA/FASTQ/GenBank -> a TFDS data set of packed rows, and one of labelled contigs",
    "pretrain": "packed rows -> a pre-trained GPT: Orbax checkpoints and metrics",
    "finetune": "pre-trained checkpoint + labelled contigs -> a virus classifier (a bundle)",
    "tune": "a search over the settings of finetune, judged on validation; needs optuna",
    "evaluate": "bundle + labelled contigs -> metrics.json, predictions.tsv, report.html",
    "score": "bundle + FASTA/FASTQ -> TSV, JSON lines or Parquet: one row per record, in order",
    "plan": "config + TPU topology -> does it fit, how fast can it be: compiled, without a TPU",
    "checkpoints": "a workdir -> its checkpoints: steps, sizes, whole or damaged, manifests",
    "doctor": "checks machine, hosts, data and storage, before hours are spent",
}


def usage() -> str:
    """What `main.py --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {does}" for name, does in COMMANDS.items()]
    return "\n".join(
        [
            "DNA language models in JAX/Flax, and the virus detector made from them.",
            "",
            "usage: python main.py COMMAND --config=configs/NAME.py --workdir=DIR "
            "[--config.KEY=VALUE ...]",
            "",
            *lines,
            "",
            "python main.py COMMAND --help tells more about one command.",
        ]
    )
