# A rule for Snakemake 8 or newer: the contigs of each sample in, scores, viral contigs and a page out.
#
#   snakemake --snakefile score.smk --cores 4 scores/SAMPLE.tsv.gz
#
# Settings, with --config: dnallm="python /path/to/main.py" where the package is not installed, and
# options="--fpr=0.001 --bundle=DIR" for what else the command is to do. A job that was killed goes
# on where it was when it is started again: what lies beside the outputs is no output of the rule, so
# Snakemake leaves it there.


rule virus_scores:
    input:
        "contigs/{sample}.fa.gz",
    output:
        scores="scores/{sample}.tsv.gz",
        provenance="scores/{sample}.tsv.gz.provenance.json",
        viral="scores/{sample}.viral.fa.gz",
        summary="scores/{sample}.summary.html",
    params:
        dnallm=config.get("dnallm", "dnallm"),
        options=config.get("options", ""),
    threads: 2
    resources:
        mem_mb=2000,
    log:
        "logs/virus_scores/{sample}.log",
    shell:
        "{params.dnallm} score --resume --threads={threads} {params.options}"
        " --output={output.scores:q} --fasta-out={output.viral:q} --summary={output.summary:q}"
        " {input:q} 2> {log:q}"
