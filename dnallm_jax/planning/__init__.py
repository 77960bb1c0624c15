"""What does a step cost, and does it fit? Formulas that are printed wherever their numbers are."""
