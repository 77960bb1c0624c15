"""Recipes: short programs whose headers hold their launch commands and expected result."""
