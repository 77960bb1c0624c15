"""How does byte-pair encoding learn tokens from genomes, and how are they read and written?

Ids 0 to 5 are those of all tokenizers here; the merged tokens follow, in the order they were
learned. Letters are encoded in words of 120, so that a genome's tokens do not depend on the blocks
it is read in; no token crosses the end of a word or holds an ambiguous letter.

The vocabulary holds the reverse complement of every token: learning from both strands makes nearly
all of them, and the few others are added, with no merge that would lead to them. So a stream of
tokens is turned over token by token, exactly and in as many tokens, though in general into another
stream than `encode` gives for the other strand.

Needs the package tokenizers (requirements-bpe.txt), but for decoding.
"""

import functools
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.tokenizers import SINGLE_LETTERS, Nucleotide, reverse_complement

WORD = 120  # letters; divides the blocks that genomes are tokenised in
LONGEST_TOKEN = 16  # letters; longer ones would be single repeats
VOCAB_SIZES = range(16, 1 << 16)
TRAINING_LETTERS = 10_000_000  # of each strand
_SINGLES = [chr(letter) for letter in SINGLE_LETTERS]


@dataclass(frozen=True)
class Bpe:
    """Byte-pair encoding of DNA; `merges` are pairs of tokens in the order they are joined."""

    merges: tuple[tuple[str, str], ...]
    name: ClassVar[str] = "bpe"
    covering: ClassVar[bool] = True

    @functools.cached_property
    def tokens(self) -> list[str]:
        """The letters of every id; "" for padding."""
        return ["", *_SINGLES, *_closed(self.merges)]

    @property
    def vocab_size(self) -> int:
        return len(self.tokens)

    @property
    def dtype(self) -> np.dtype:
        return np.min_scalar_type(self.vocab_size - 1)

    @functools.cached_property
    def token_lengths(self) -> np.ndarray:
        return np.array([len(token) for token in self.tokens], np.int32)

    @functools.cached_property
    def token_bases(self) -> np.ndarray:
        return np.array([0, 0, *self.token_lengths[2:]], np.int32)

    def encode(self, bases: bytes) -> np.ndarray:
        found = self._model.encode(words(bases), is_pretokenized=True, add_special_tokens=False)
        return np.array(found.ids, self.dtype)

    def decode(self, tokens: np.ndarray) -> bytes:
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < self.vocab_size:
            raise ValueError(f"token ids must be from 0 to {self.vocab_size - 1}")
        return "".join([self.tokens[token] for token in tokens.tolist()]).encode()

    def reverse_complement(self, tokens: np.ndarray) -> np.ndarray:
        return self._complement[tokens[..., ::-1]].astype(tokens.dtype, copy=False)

    def spec(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "vocab_size": self.vocab_size,
            "sha256": _digest(self.merges),
            "merges": [" ".join(pair) for pair in self.merges],
        }

    def json(self) -> str:
        """The text of a tokenizer.json, which Hugging Face's libraries read."""
        return self._model.to_str(pretty=True)

    @functools.cached_property
    def _complement(self) -> np.ndarray:
        ids = {token: number for number, token in enumerate(self.tokens)}
        return np.array([ids[_turned(token)] for token in self.tokens], np.int32)

    @functools.cached_property
    def _model(self) -> Any:
        vocabulary = {token or "<pad>": number for number, token in enumerate(self.tokens)}
        library = _library()
        return library.Tokenizer(library.models.BPE(vocab=vocabulary, merges=list(self.merges)))


def from_spec(spec: Mapping[str, Any]) -> Bpe:
    """The tokenizer of `Bpe.spec()`; UserError when the merges are not those of the checksum."""
    merges = tuple((left, right) for left, right in (pair.split(" ") for pair in spec["merges"]))
    if _digest(merges) != spec["sha256"]:
        raise UserError(
            "tokenizer bpe: the merges do not match their sha256, so they were damaged; prepare "
            "the data again"
        )
    return Bpe(merges)


def check_request(spec: Mapping[str, Any]) -> dict[str, Any]:
    """{"name": "bpe", "vocab_size": V}, a tokenizer still to be learned, once it is checked.

    Raises UserError for other keys, a size out of range, and where the package is missing.
    """
    if set(spec) != {"name", "vocab_size"} or spec["vocab_size"] not in VOCAB_SIZES:
        raise UserError(
            f"tokenizer bpe is asked for by name and vocab_size, a whole number from "
            f"{VOCAB_SIZES[0]} to {VOCAB_SIZES[-1]}; given: {dict(spec)}"
        )
    _library()
    return dict(spec)


def train(stretches: Iterable[bytes], letters: int, vocab_size: int) -> Bpe:
    """The tokenizer learned from stretches of `letters` letters in all, on both strands.

    Every word is learned from, or evenly spaced ones of TRAINING_LETTERS in all. The vocabulary is
    as large as asked for, or smaller where the stretches hold too little, or where the last token
    would come without its reverse complement.
    """
    library = _library()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=list("ACGT"),
        max_token_length=LONGEST_TOKEN,
        show_progress=False,
    )
    model = library.Tokenizer(library.models.BPE())
    model.train_from_iterator(_training_words(stretches, letters), trainer)
    learned = [tuple(pair) for pair in json.loads(model.to_str())["model"]["merges"]]
    room = vocab_size - len(_SINGLES) - 1
    tokens: set[str] = set()
    for count, (left, right) in enumerate(learned):
        token = left + right
        if len(tokens | {token, _turned(token)}) > room:
            return Bpe(tuple(learned[:count]))
        tokens |= {token, _turned(token)}
    return Bpe(tuple(learned))


def words(bases: bytes) -> list[str]:
    """Words of WORD letters A, C, G, T and N; the last may be shorter."""
    letters = Nucleotide().decode(Nucleotide().encode(bases)).decode()
    return [letters[at : at + WORD] for at in range(0, len(letters), WORD)]


def _training_words(stretches: Iterable[bytes], letters: int) -> Iterator[str]:
    step = max(-(-letters // TRAINING_LETTERS), 1)
    every = itertools.chain.from_iterable(map(words, stretches))
    for word in itertools.islice(every, 0, None, step):
        for part in re.findall("[ACGT]+", word):
            yield part
            yield _turned(part)


def _closed(merges: Iterable[tuple[str, str]]) -> list[str]:
    """What the merges make, each once, and then the reverse complements that they do not."""
    made = dict.fromkeys(left + right for left, right in merges)
    return list(made | dict.fromkeys(map(_turned, made)))


def _turned(token: str) -> str:
    return reverse_complement(token.encode()).decode()


def _digest(merges: Iterable[tuple[str, str]]) -> str:
    text = "\n".join(" ".join(pair) for pair in merges)
    return hashlib.sha256(text.encode()).hexdigest()


def _library() -> Any:
    try:
        import tokenizers
    except ModuleNotFoundError:
        raise UserError(
            "tokenizer bpe needs the package tokenizers; install requirements-bpe.txt"
        ) from None
    return tokenizers
