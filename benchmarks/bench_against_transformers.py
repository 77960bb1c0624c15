"""Is a training step at least as fast here as Hugging Face's Llama in PyTorch, on the same cores?

    python -m venv OTHER && OTHER/bin/pip install torch transformers
    python -m benchmarks.bench_against_transformers --torch=OTHER/bin/python [--lengths=512,2048]

Both networks have the dimensions of `configs/gpt_5m.py` and train in float32 with AdamW and clipped
gradients on rows of one sequence. PyTorch is no library of this project: it lives in an environment
of its own, where this file runs a second time with --serve, asked for one step at a time, so that
the two alternate while whatever else this machine does goes on. Prints tokens per second of
processor time (of all threads of the process) and of wall time, medians, and the ratio of each.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

CORES = os.cpu_count() or 1


def measured(step: Callable[[], Any]) -> tuple[float, float]:
    """(processor seconds, wall seconds) of one step."""
    busy, begun = time.process_time(), time.perf_counter()
    step()
    return time.process_time() - busy, time.perf_counter() - begun


def theirs(dims: dict[str, Any]) -> Callable[[], Any]:
    """A training step of transformers' Llama, in float32, its fastest attention."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_num_threads(CORES)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=dims["vocab_size"],
            hidden_size=dims["width"],
            intermediate_size=dims["feed_forward"],
            num_hidden_layers=dims["layers"],
            num_attention_heads=dims["heads"],
            num_key_value_heads=dims["kv_heads"],
            head_dim=dims["head_width"],
            max_position_embeddings=dims["length"],
            attn_implementation="sdpa",
            use_cache=False,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, fused=True)
    tokens = torch.randint(1, dims["vocab_size"], (dims["rows"], dims["length"]))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        float(loss.detach())

    return step


def ours(dims: dict[str, Any]) -> Callable[[], Any]:
    """A training step of this project's GPT, made as `pretrain` makes it."""
    import dataclasses

    from dnallm_jax.parallel import heap

    heap.keep_freed()

    import jax
    import numpy as np

    from configs import gpt_5m
    from data_pipeline.loader import layout, stack
    from data_pipeline.tokenizers import Nucleotide
    from dnallm_jax.config import resolve
    from dnallm_jax.parallel.mesh import make_mesh, to_device
    from dnallm_jax.training import pretraining

    config = resolve(gpt_5m.get_config())
    trained = dataclasses.replace(config.pretrain, batch_rows=dims["rows"])
    config = dataclasses.replace(config, pretrain=trained)
    mesh, tokenizer = make_mesh(devices=jax.devices()[:1]), Nucleotide()
    program, _, _ = pretraining.program(config, tokenizer, mesh)
    state, shardings = program.state()
    rng = np.random.default_rng(0)
    rows = [
        layout([rng.integers(1, dims["vocab_size"], dims["length"])], dims["length"], tokenizer)
        for _ in range(dims["rows"])
    ]
    batch, train_step = to_device(stack(rows), mesh), program.train_step(shardings)

    def step() -> None:
        nonlocal state
        state, sums = train_step(state, batch)
        float(sums["loss"])

    return step


def dimensions(length: int, tokens: int) -> dict[str, Any]:
    from configs import gpt_5m
    from data_pipeline.tokenizers import Nucleotide

    model = gpt_5m.get_config().model.to_dict()
    vocabulary = Nucleotide().vocab_size
    return {**model, "vocab_size": vocabulary, "length": length, "rows": max(1, tokens // length)}


def serve(words: str) -> None:
    """Runs a step of theirs for each line read; answers with its times."""
    step = theirs(json.loads(words))
    for _ in sys.stdin:
        print(json.dumps(measured(step)), flush=True)


def compare(other: str, length: int, tokens: int, steps: int) -> None:
    dims = dimensions(length, tokens)
    command = [other, __file__, "--serve", json.dumps(dims)]
    # Threads that wait shall sleep: on a loaded machine they would count as work.
    patient = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=patient
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        step = ours(dims)
        times: dict[str, list[tuple[float, float]]] = {"ours": [], "theirs": []}
        for number in range(steps + 2):
            process.stdin.write("\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            mine = measured(step)
            if number >= 2:  # the first ones compile, and warm the caches
                times["theirs"].append(answer)
                times["ours"].append(mine)
        process.stdin.close()
    count = dims["rows"] * length
    print(f"L = {length}, {dims['rows']} rows, float32, {steps} steps in turn, {CORES} cores")
    for number, kind in enumerate(("CPU", "wall")):
        rate = {who: count / statistics.median(t[number] for t in ts) for who, ts in times.items()}
        print(
            f"  tokens per {kind}-second: ours {rate['ours']:,.0f}, transformers "
            f"{rate['theirs']:,.0f}, ratio {rate['ours'] / rate['theirs']:.2f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", help="the Python of an environment with torch and transformers")
    parser.add_argument("--lengths", default="512,2048")
    parser.add_argument("--tokens", type=int, default=2048, help="tokens of a batch")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.serve:
        serve(words.serve)
        return
    if not words.torch:
        parser.error("--torch=PYTHON is missing")
    for length in words.lengths.split(","):
        compare(words.torch, int(length), words.tokens, words.steps)


if __name__ == "__main__":
    main()
