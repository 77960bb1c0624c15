"""python main.py checkpoints FOLDER [FOLDER ...]

Lists the checkpoints and bundles in a workdir (or a folder in it): step, size, what each holds, and
whether it is whole, every file compared with the sha256 in its manifest. A FOLDER that is one
checkpoint itself (DIR/pretrain/checkpoints/200, DIR/bundle) is explained by its whole manifest.
A FOLDER may be in a bucket (gs://).
Ends with exit code 2 when one is damaged. It changes nothing and needs no accelerator.
"""

from data_pipeline.errors import UserError


def define_flags() -> None:
    pass


def run(arguments: list[str]) -> None:
    if not arguments:
        raise UserError("no folder; name a workdir, for example runs/small")

    from dnallm_jax.training import listing, storage

    damaged = 0
    for folder in map(storage.folder, arguments):
        if listing.found(folder) == [folder]:
            lines = listing.explanation(folder)
        else:
            lines, bad = listing.table(folder)
            damaged += bad
        for line in lines:
            print(line)
    if damaged:
        raise UserError(
            f"{damaged} damaged; a run passes over them, and takes the newest whole one"
        )
