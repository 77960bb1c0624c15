"""Recipes: each file is a short program whose header holds its launch commands and expected result."""
