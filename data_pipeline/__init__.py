"""Sequences in, batches out: reads, tokenizes, packs, splits and loads DNA. Knows no model."""
