"""What would a contig look like with the same dinucleotides in another order? A control.

A detector that calls shuffled viruses viral goes by their composition alone.
"""

import itertools
from collections import defaultdict

import numpy as np


def shuffle_dinucleotides(bases: bytes, rng: np.random.Generator) -> bytes:
    """The letters in an order drawn at random among all that have the same pairs of neighbours.

    First and last letter stay. Altschul & Erickson 1985, with the last edges of the Euler path
    drawn by Wilson's (1996) loop-erased walk, so that every such order is equally likely.
    """
    if len(bases) < 3:
        return bases
    followers: dict[int, list[int]] = defaultdict(list)
    for letter, follower in itertools.pairwise(bases):
        followers[letter].append(follower)
    last = _last_edges(followers, bases[-1], rng)
    for letter, own in followers.items():
        if letter in last:
            own.remove(last[letter])
        followers[letter] = [own[place] for place in rng.permutation(len(own))]
        if letter in last:
            followers[letter].append(last[letter])
    path = [bases[0]]
    ways = {letter: iter(own) for letter, own in followers.items()}
    for _ in bases[1:]:
        path.append(next(ways[path[-1]]))
    return bytes(path)


def _last_edges(
    followers: dict[int, list[int]], end: int, rng: np.random.Generator
) -> dict[int, int]:
    """The edge by which each letter but the end is left for the last time: a tree to the end."""
    last: dict[int, int] = {}
    done = {end}
    for letter in sorted(followers):
        at, walk = letter, dict[int, int]()
        while at not in done:  # what a loop chose is overwritten on the way round
            walk[at] = followers[at][int(rng.integers(len(followers[at])))]
            at = walk[at]
        at = letter
        while at not in done:
            done.add(at)
            last[at] = walk[at]
            at = walk[at]
    return last
