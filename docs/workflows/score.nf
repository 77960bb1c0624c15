// A process for Nextflow: the contigs of each sample in, scores, viral contigs and a page out.
//
//   nextflow run score.nf --contigs 'contigs/*.fa.gz'
//
// --dnallm 'python /path/to/main.py' where the package is not installed, and --options '--fpr=0.001'
// for what else the command is to do. Nextflow gives each attempt a new folder, so a job that was
// killed begins anew.

params.contigs = 'contigs/*.fa.gz'
params.dnallm = 'dnallm'
params.options = ''
params.outdir = 'scores'

process VIRUS_SCORES {
    tag "${sample}"
    cpus 2
    memory 2.GB
    publishDir params.outdir, mode: 'copy'

    input:
    tuple val(sample), path(contigs)

    output:
    tuple val(sample), path("${sample}.tsv.gz"), emit: scores
    path "${sample}.tsv.gz.provenance.json", emit: provenance
    path "${sample}.viral.fa.gz", emit: viral
    path "${sample}.summary.html", emit: summary

    script:
    """
    ${params.dnallm} score --quiet --threads=${task.cpus} ${params.options} \\
      --output=${sample}.tsv.gz --fasta-out=${sample}.viral.fa.gz --summary=${sample}.summary.html \\
      ${contigs}
    """
}

workflow {
    VIRUS_SCORES(channel.fromPath(params.contigs).map { contigs -> [contigs.simpleName, contigs] })
}
