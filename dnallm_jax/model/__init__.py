"""Pure functions of arrays: the GPT and the classifier made from it. No mesh, config or files.

Letters in names of arrays (x_BLD) and in einsum strings:
  B batch   L length (tokens)   D width   N layers   V vocabulary   F feed-forward width
  H query heads   K key/value heads   G = H/K queries a key/value head   h head width
"""
