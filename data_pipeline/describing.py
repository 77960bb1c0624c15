"""What is in a prepared data set? Its manifest in lines for a person."""

from collections.abc import Iterator, Mapping
from typing import Any


def lines(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Counts, composition, groups, what was left out, Markov floor; of a corpus or contigs."""
    yield f"{manifest['kind']}  {manifest['fingerprint'][:16]}"
    for split, found in manifest["splits"].items():
        parts = [f"{found['records']:,} records", f"{found['bases']:,} bases"]
        if found["clusters"] is not None:  # they are not looked for where the splits were given
            parts.append(f"{found['clusters']:,} clusters")
        parts.append(f"GC {found['gc']:.1%}, N {found['n_share']:.2%}")
        if "rows" in found:
            length = manifest["options"]["row_length"]
            parts.append(f"{found['rows']:,} rows of {length} filled to {found['fill']:.1%}")
        if "viral" in found:
            parts.append(f"{found['viral']:,} viral")
        yield f"  {split:<11} {', '.join(parts)}"
        groups = (f"{name} {group['bases']:,}" for name, group in found["groups"].items())
        yield f"  {'':<11} bases by group: {', '.join(groups)}"
    for reason, left in manifest["left_out"].items():
        yield f"  left out    {reason}: {left['records']:,} records, {left['bases']:,} bases"
    if manifest.get("markov"):
        bits = manifest["markov"]["bits_per_base"]
        orders = "  ".join(f"{order}: {value:.4f}" for order, value in bits.items())
        yield f"  Markov floor, bits per base on validation by order: {orders}"
