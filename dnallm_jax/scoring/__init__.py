"""Sequences in, virus scores out: windows, both strands, one row a record, in order."""
