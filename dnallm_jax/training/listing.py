"""Which checkpoints and bundles lie in a folder, what does each hold, and is it whole?"""

import json
import pathlib
from typing import Any

from data_pipeline.errors import UserError
from dnallm_jax.training import storage
from dnallm_jax.training.manifest import MANIFEST, Damaged, read_manifest, saved_steps

# What a manifest says before all else; the rest of it may be long.
_FIRST = ("kind", "step", "metrics", "tokens_seen", "bases_seen", "data", "config_digest")


def found(folder: pathlib.Path) -> list[pathlib.Path]:
    """The checkpoints and bundles at and below `folder`, of a run in order of their steps."""
    if (folder / MANIFEST).exists() or (folder / "arrays").is_dir():
        return [folder]
    inside = [name.split("/arrays/")[0] for name in storage.files(folder) if "/arrays/" in name]
    below = sorted({folder / name for name in inside})
    runs = sorted({path.parent for path in below if path.name.isdigit()})
    steps = [run / str(step) for run in runs for step in saved_steps(run)]
    others = [path for path in below if path not in steps]
    named = [p for p in others if p.name in storage.names(p.parent)]
    return steps + [p for p in named if p.suffix not in (".old", storage.UNFINISHED)]


def table(folder: pathlib.Path) -> tuple[list[str], int]:
    """A line for each checkpoint, all of its files verified, and how many are damaged.

    Raises:
      UserError: there is none.
    """
    folders = found(folder)
    if not folders:
        raise UserError(
            f"{folder}: no checkpoint or bundle here; name a workdir, or a folder in it"
        )
    lines, damaged = [], 0
    for path in folders:
        name = "." if path == folder else str(path.relative_to(folder))
        size = sum(storage.files(path).values())
        try:
            said = _in_short(read_manifest(path))
        except Damaged as error:
            damaged += 1
            said = f"DAMAGED  {error}"
        lines.append(f"{name:<28} {size / 1000:>13,.1f} kB  {said}")
    return lines, damaged


def _in_short(manifest: dict[str, Any]) -> str:
    metrics = ", ".join(f"{k} {v:.4f}" for k, v in manifest.get("metrics", {}).items())
    seen = f", {manifest['bases_seen']:,} bases seen" if "bases_seen" in manifest else ""
    stop = ", saved at a stop" if manifest.get("passing") else ""
    return f"whole  {manifest.get('kind', '?')}{seen}{stop}{', ' if metrics else ''}{metrics}"


def explanation(folder: pathlib.Path) -> list[str]:
    """All that one checkpoint's manifest says, in lines; UserError when it is not whole."""
    try:
        manifest = read_manifest(folder)
    except Damaged as error:
        raise UserError(f"{error}; take another checkpoint, or restore this one") from None
    files = manifest.pop("files")
    order = [key for key in _FIRST if key in manifest]
    order += sorted(set(manifest) - set(order))
    return [
        json.dumps({key: manifest[key] for key in order}, indent=1),
        f"{len(files)} files, each with its sha256 in {MANIFEST}; all of them are whole",
    ]
