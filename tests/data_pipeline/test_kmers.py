"""Are k-mers packed as the definition says, whatever the letters and the length?"""

import numpy as np
import pytest

from data_pipeline import kmers


def by_definition(bases: bytes, k: int) -> tuple[list[int], list[int]]:
    forward, backward = [], []
    for at in range(len(bases) - k + 1):
        word = bases[at : at + k].upper().replace(b"U", b"T").decode()
        if set(word) <= set("ACGT"):
            code = ["ACGT".index(letter) for letter in word]
            forward.append(sum(c << 2 * (k - 1 - i) for i, c in enumerate(code)))
            backward.append(sum((3 - c) << 2 * i for i, c in enumerate(code)))
    return forward, backward


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 8, 13, 16, 17, 21, 31])
@pytest.mark.parametrize("length", [0, 1, 20, 21, 22, 300])
def test_kmers_are_those_of_the_definition(k, length):
    rng = np.random.default_rng(length)
    bases = bytes(rng.choice(list(b"ACGTacgtuNR"), length, p=[0.12] * 8 + [0.02, 0.01, 0.01]))
    forward, backward = kmers.kmers(kmers.base_codes(bases), k)
    assert (forward.tolist(), backward.tolist()) == by_definition(bases, k)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_pieces_lose_and_repeat_nothing(size):
    codes = np.random.default_rng(1).integers(0, 4, 200).astype(np.uint8)
    whole = kmers.kmers(codes, 21)[0]
    parts = [kmers.kmers(piece, 21)[0] for piece in kmers.pieces(codes, 21, size)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_k_beyond_the_word_is_refused():
    with pytest.raises(ValueError, match="k must be"):
        kmers.kmers(np.zeros(50, np.uint8), 32)
