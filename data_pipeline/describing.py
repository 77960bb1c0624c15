"""What is in a prepared data set? Its manifest in lines for a person."""

from collections.abc import Iterator, Mapping
from typing import Any

from data_pipeline.markov import NEAR_COPY_DROP


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
        if found.get("repeated"):
            parts.append(f"{found['repeated']:,} bases come again (phases, wrapping)")
        if manifest.get("tokenizer", {}).get("name") == "codon":
            share = found["covered"] / found["bases"]
            parts.append(f"open stretches hold {share:.0%} as many bases")
        if "viral" in found:
            parts.append(f"{found['viral']:,} viral")
        yield f"  {split:<11} {', '.join(parts)}"
        groups = (f"{name} {group['bases']:,}" for name, group in found["groups"].items())
        yield f"  {'':<11} bases by group: {', '.join(groups)}"
    for reason, left in manifest["left_out"].items():
        yield f"  left out    {reason}: {left['records']:,} records, {left['bases']:,} bases"
    for split, table in manifest.get("leakage", {}).items():
        sample = "all" if table["scale"] == 1 else f"1 in {table['scale']}"
        yield f"  leakage     {split}: share of its {table['k']}-mers ({sample}) found in train"
        yield f"    {'group':<20} {'records':>9} {'k-mers':>11} {'in train':>9} {'relatives':>9}"
        for row in table["rows"]:
            yield (
                f"    {row['label']:<20} {row['records']:>9,} {row['kmers']:>11,} "
                f"{row['share']:>9.4%} {row['linked']:>9,}"
            )
        if table["copies"]:
            yield (
                f"    warning: {table['copies']:,} records have half of their {table['k']}-mers or "
                "more in train; few and short enough to be genes that strangers share"
            )
    if manifest.get("markov"):
        bits = manifest["markov"]["bits_per_base"]
        orders = "  ".join(f"{order}: {value:.4f}" for order, value in bits.items())
        unit = ", of codons, over the bases covered" if "unit" in manifest["markov"] else ""
        yield f"  Markov floor, bits per base on validation by order{unit}: {orders}"
        drop = manifest["markov"].get("drop_at_high_orders", 0.0)
        if drop > NEAR_COPY_DROP:
            yield (
                f"    warning: orders 11 and 12 save {drop:.3f} bits per base, so validation holds "
                "near-copies of train"
            )
