"""Sequences in, batches out: reading, tokenizing, packing, splitting and loading DNA. Knows no model."""
