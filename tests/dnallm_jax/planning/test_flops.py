"""Is the number of operations the one counted by hand?"""

import dataclasses

import jax
import numpy as np
import pytest

from dnallm_jax.model import reference
from dnallm_jax.model.gpt import GPT, GPTSpec
from dnallm_jax.planning import flops
from dnallm_jax.planning.flops import (
    PEAKS,
    context,
    device_peak,
    flops_per_token,
    formula,
    matrix_parameters,
)
from tests.dnallm_jax.tiny import SPEC, numpy_params

BY_HAND = GPTSpec(
    vocab_size=10, width=8, layers=3, heads=2, kv_heads=1, head_width=4, feed_forward=16
)


def test_the_formula_by_hand() -> None:
    # A block: queries 8 x 2 x 4, keys and values 8 x 1 x 4 each, out 2 x 4 x 8; MLP 3 x 8 x 16.
    block = 64 + 32 + 32 + 64 + 384
    assert matrix_parameters(BY_HAND, language_model=False) == 3 * block
    assert matrix_parameters(BY_HAND, language_model=True) == 3 * block + 8 * 10
    # Scores and their product with the values: 2 x 2 x 8 a token seen, in 3 layers.
    seen_by_all, seen_on_average = 100, 50
    forward = 2 * (3 * block + 80)
    assert flops_per_token(BY_HAND, 100, causal=False, training=False) == (
        forward + 3 * 32 * seen_by_all
    )
    assert flops_per_token(BY_HAND, 100, training=False) == forward + 3 * 32 * seen_on_average
    assert flops_per_token(BY_HAND, 100) == 3 * (forward + 3 * 32 * seen_on_average)
    assert flops_per_token(BY_HAND, 100, language_model=False) == (
        3 * (2 * 3 * block + 3 * 32 * seen_on_average)
    )


@pytest.mark.parametrize("window", [0, 1, 2, 7, 23, 24, 25, 100])
def test_context_is_what_attention_lets_a_token_see(window: int) -> None:
    length = 24
    row = np.ones((1, length), np.int32)

    def seen(*, causal: bool) -> float:
        mask = reference.allowed(row, row, 0, 0, causal, window)
        return float(mask.sum() / length)

    assert context(length, causal=False, window=window) == pytest.approx(seen(causal=False))
    # Half, so that a token's view of itself counts half too.
    assert context(length, causal=True, window=window) == pytest.approx(seen(causal=True) - 0.5)
    # And it reaches the FLOPs: scores and their product with the values, in each of three layers.
    windowed = dataclasses.replace(BY_HAND, window=window)
    for causal in (False, True):
        free, limited = (
            flops_per_token(spec, length, causal=causal, training=False)
            for spec in (BY_HAND, windowed)
        )
        fewer = context(length, causal=causal) - context(length, causal=causal, window=window)
        assert free - limited == pytest.approx(3 * 4 * 2 * 4 * fewer)


def test_the_formula_says_what_is_counted() -> None:
    assert "head width x row/2)" in formula()
    assert "head width x row)" in formula(causal=False)
    assert "x (tokens within the window)/2)" in formula(window=64)
    assert formula().startswith("3 x (2 x matrix")
    assert formula(training=False).startswith("(2 x matrix")


def test_matrix_parameters_are_those_of_the_network() -> None:
    flat, _ = jax.tree_util.tree_flatten_with_path(numpy_params(GPT))
    sizes = {jax.tree_util.keystr(path): leaf.size for path, leaf in flat}
    matrices = [n for path, n in sizes.items() if "norm" not in path and "embedding" not in path]
    assert matrix_parameters(SPEC, language_model=True) == sum(matrices)


def test_peaks_are_named_as_jax_names_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    class Device:
        platform = "tpu"

        def __init__(self, kind: str) -> None:
            self.device_kind = kind

    def peak_of(kind: str, count: int) -> flops.Peak:
        monkeypatch.setattr(jax, "devices", lambda: [Device(kind)] * count)
        return device_peak()

    for kind, tera in (
        ("TPU v4", 275), ("TPU v5 lite", 197), ("TPU v5", 459), ("TPU v5p", 459),
        ("TPU v6 lite", 918), ("TPU7x", 1155), ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-40GB", 312),
    ):  # fmt: skip
        assert peak_of(kind, 4) == flops.Peak(4e12 * tera, f"4 x {kind}, published bf16 peak")
    assert min(PEAKS.values()) > 1e14

    monkeypatch.setattr(flops, "_matmul_rate", lambda: 1e11)
    assert peak_of("Strange GPU", 2).flops == 2e11
    monkeypatch.setattr(Device, "platform", "cpu")
    assert peak_of("cpu", 8).flops == 1e11  # fake devices share the cores


def test_the_rate_of_this_machine_is_measured() -> None:
    assert 1e8 < flops._matmul_rate() < 1e14
