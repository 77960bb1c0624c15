"""Are rows written as protobuf would write them, and read as it would read them?"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_datasets.proto import tf_example_pb2

from data_pipeline import wire

Values = dict[str, bytes | np.ndarray]


def drawn(sizes: dict[str, int], count: int) -> Values:
    rng = np.random.default_rng(0)
    return {
        "same": b"for all",
        **{n: rng.integers(0, 256, (count, size)).astype(np.uint8) for n, size in sizes.items()},
    }


def row(values: Values, number: int) -> dict[str, bytes]:
    return {n: v if isinstance(v, bytes) else v[number].tobytes() for n, v in values.items()}


@given(
    st.dictionaries(
        st.text("abcdefgh_", min_size=1), st.sampled_from([0, 1, 127, 128, 20_000]), max_size=6
    ),
    st.integers(1, 4),
)
def test_examples_are_those_of_protobuf(sizes: dict[str, int], count: int) -> None:
    values = drawn(sizes, count)
    stored = list(wire.examples(values, count))
    assert len(stored) == count
    for number, example in enumerate(stored):
        message = tf_example_pb2.Example.FromString(example)
        found = {n: list(f.bytes_list.value) for n, f in message.features.feature.items()}
        assert found == {name: [value] for name, value in row(values, number).items()}
        assert len(example) == message.ByteSize()
        assert wire.taken_apart(example) == row(values, number)


def check_shapes_of_one_length(monkeypatch: pytest.MonkeyPatch, seen: dict) -> None:
    monkeypatch.setattr(wire, "_SEEN", seen)
    shapes = [drawn({"x": x, "y": 60 - x}, 2) for x in (3, 30, 57)]
    examples = [list(wire.examples(values, 2)) for values in shapes]
    assert len({len(example) for pair in examples for example in pair}) == 1
    for number in (0, 1, 0):
        for values, pair in zip(shapes, examples, strict=True):
            assert wire.taken_apart(pair[number]) == row(values, number)


def test_examples_of_one_length_and_other_shapes_are_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_shapes_of_one_length(monkeypatch, {})


def test_planted_fault_a_shape_taken_for_granted(monkeypatch: pytest.MonkeyPatch) -> None:
    class WithoutFrames(dict):
        def __setitem__(self, length: int, places: tuple) -> None:
            super().__setitem__(length, tuple((n, b"", *at) for n, _, *at in places))

    with pytest.raises(AssertionError):
        check_shapes_of_one_length(monkeypatch, WithoutFrames())
