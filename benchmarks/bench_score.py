"""How fast does `score` work, and how near is that to what the processor can do?

    python -m benchmarks.bench_score [--bundle=DIR] [--kilobases=600] [--batch-size=auto]

Scores simulated contigs of 300, 1,000 and 3,000 bases, from a FASTA file to a TSV file, in one
process, its start excluded; both strands are covered. Without a bundle the networks are those of
configs/detector.py with random parameters, which are as fast. Prints for each length

    kb/CPU-s   thousand bases for each second of processor time, of all threads together
    kb/s       the same for each second
    of matmul  arithmetic of the networks (padding included) in each second of processor time, over
               the rate of a 1,024-wide float32 product, measured before and after in this process
    in step    the same while the networks alone compute: all of their batches once more
    of own     the same over the rate of float32 products of the very shapes that the networks
               multiply by their parameters, weighed as they occur
    used       share of the arithmetic that is not spent on rows without a piece
    rows       share of the processor time in which pieces are turned into rows
    matmul     that rate, GFLOP for each second of processor time
"""

import argparse
import contextlib
import dataclasses
import functools
import itertools
import math
import pathlib
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.bench_frames import simulated
from configs.detector import get_config
from data_pipeline.frames import Codon
from data_pipeline.reading import read_blocks
from data_pipeline.spooling import spooled
from data_pipeline.views import Composition, Frames
from dnallm_jax.config import gpt_spec, resolve
from dnallm_jax.evaluation.calibration import Calibration
from dnallm_jax.model.composition import CompositionSpec
from dnallm_jax.model.gpt import GPTSpec
from dnallm_jax.model.network import composition_network, gpt_network
from dnallm_jax.parallel import hosts
from dnallm_jax.parallel.execution import choose
from dnallm_jax.parallel.mesh import make_mesh
from dnallm_jax.planning.flops import flops_per_token
from dnallm_jax.scoring import batch, batches, bundle, settings
from dnallm_jax.scoring.detector import Detector
from dnallm_jax.scoring.formats import choose_format
from dnallm_jax.scoring.joint import JointScorer
from dnallm_jax.scoring.output import Calls
from dnallm_jax.scoring.progress import Progress


def random_detector(batch_tokens: int) -> tuple[Detector, dict[str, bundle.Reading]]:
    """The networks of configs/detector.py with fresh parameters, and how they read."""
    config, (run, _) = resolve(get_config()), choose()
    codon, sizes = Codon(), config.composition
    spec = CompositionSpec(Composition.features, sizes.widths, sizes.networks)
    gpt = gpt_network(gpt_spec(config.model, codon.vocab_size), run, pooling="mean", causal=True)
    members = {
        "codons": (gpt, codon.spec(), Frames.name, config.score.window),
        "composition": (composition_network(spec), None, Composition.name, sizes.window),
    }
    mesh = make_mesh(data=-1, fsdp=1)
    scorers, readings = {}, {}
    for name, (network, tokenizer, view, window) in members.items():
        readings[name] = bundle.Reading(network.description, tokenizer, view, window)
        scorers[name] = bundle.make_scorer(
            network.initialise(0), readings[name], run, mesh, batch_tokens=batch_tokens
        )
    opened = bundle.Detector(JointScorer(scorers), Calibration(), 0.5, {"sha256": "random"})
    return Detector(opened, Calls(0.5), batch_tokens), readings


def flop(network: Mapping[str, Any], arrays: Mapping[str, Any]) -> float:
    """Of the matrix products of one batch; causal attention counted half, as in planning/flops."""
    if network["kind"] == "composition":
        sizes = [network["features"], *network["widths"], 1]
        products = sum(a * b for a, b in itertools.pairwise(sizes))
        return 2.0 * network["networks"] * products * len(arrays["features"])
    spec = GPTSpec(
        **{
            field.name: network[field.name]
            for field in dataclasses.fields(GPTSpec)
            if field.name in network
        }
    )
    rows, length = arrays["tokens"].shape
    how = {"causal": network["causal"], "language_model": False, "training": False}
    return rows * length * flops_per_token(spec, length, **how)


def products(network: Mapping[str, Any], arrays: Mapping[str, Any]) -> list[tuple[int, int, int]]:
    """(rows, width, columns) of each product by parameters in one batch, but for single columns."""
    if network["kind"] == "composition":
        sizes = [network["features"], *network["widths"]]
        own = [*itertools.pairwise(sizes)] * network["networks"]
        return [(len(arrays["features"]), *pair) for pair in own]
    width, heads, kv = (network[name] for name in ("width", "heads", "kv_heads"))
    inner, key = heads * network["head_width"], kv * network["head_width"]
    up, down = (width, network["feed_forward"]), (network["feed_forward"], width)
    own = [(width, inner), (width, key), (width, key), (inner, width), up, up, down]
    return [(arrays["tokens"].size, *pair) for pair in own * network["layers"]]


class Meter:
    """Counts what the networks of a detector compute, and the time that rows take to make."""

    def __init__(self, detector: Detector, readings: Mapping[str, bundle.Reading]) -> None:
        self.clear()
        for name, scorer in detector.bundle.scorer._members.items():
            own = scorer._batches
            which = "logits" if own.rows is None else "rows"
            setattr(own, which, self._counted(getattr(own, which), readings[name].network))
            own._view = _Timed(own._view, self)

    def clear(self) -> None:
        self.flop = self.used = self.rows = 0.0
        self.batches: list[tuple[float, Callable[[], jax.Array]]] = []
        self.products: Counter[tuple[int, int, int]] = Counter()

    def _counted(self, logits: Any, network: Mapping[str, Any]) -> Any:
        def counted(params: Any, arrays: Mapping[str, Any]) -> Any:
            work = flop(network, arrays)
            held = np.asarray(arrays["features" if "features" in arrays else "segment_ids"])
            self.flop += work
            self.used += work * float(held.any(axis=1).mean())
            self.batches.append((work, functools.partial(logits, params, arrays)))
            self.products.update(products(network, arrays))
            return logits(params, arrays)

        return counted

    def step_rate(self) -> float:
        """FLOP for each second of processor time while nothing but the networks computes."""
        begin, running = time.process_time(), deque[Any]()
        for _, again in self.batches:
            running.append(again())
            if len(running) > batches._AHEAD:  # as in scoring
                jax.block_until_ready(running.popleft())
        jax.block_until_ready(list(running))
        return sum(work for work, _ in self.batches) / (time.process_time() - begin)

    def own_rate(self) -> float:
        """FLOP for each second of processor time in nothing but the products by parameters."""
        work = {shape: 2.0 * count * math.prod(shape) for shape, count in self.products.items()}
        return sum(work.values()) / sum(own / product_rate(shape) for shape, own in work.items())


class _Timed:
    """A view that tells a meter how long it reads."""

    def __init__(self, view: Any, meter: Meter) -> None:
        self._view, self._meter = view, meter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)

    def read(self, *arguments: Any) -> Any:
        return self._timed(self._view.read, *arguments)

    def segments_batch(self, *arguments: Any) -> Any:
        return self._timed(self._view.segments_batch, *arguments)

    def _timed(self, work: Callable[..., Any], *arguments: Any) -> Any:
        begin = time.thread_time()
        read = work(*arguments)
        self._meter.rows += time.thread_time() - begin
        return read


def product_rate(shape: tuple[int, int, int] = (1024, 1024, 1024), repeats: int = 8) -> float:
    """FLOP for each second of processor time in float32 products of a shape; the best."""
    rows, width, columns = shape
    a, b = jnp.ones((rows, width), jnp.float32), jnp.ones((width, columns), jnp.float32)
    product = jax.jit(jnp.matmul)
    product(a, b).block_until_ready()
    work = 2 * math.prod(shape)
    calls = -(-(2 * 1024**3) // work)  # so many that what is around them costs little
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        jax.block_until_ready([product(a, b) for _ in range(calls)])
        times.append(time.process_time() - begin)
    return work * calls / min(times)


@contextlib.contextmanager
def fasta(contigs: list[bytes]) -> Iterator[tuple[str, str]]:
    """(a file with the contigs, a name for the output)."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "contigs.fa")
        with path.open("wb") as file:
            for number, contig in enumerate(contigs):
                file.write(b">contig_%d\n%s\n" % (number, contig))
        yield str(path), str(path.with_name("scores.tsv"))


def score(detector: Detector, source: str, target: str) -> None:
    """As the command does."""
    batch.score_to_files(
        detector.bundle,
        detector.calls,
        spooled(read_blocks([source], strict=False)),
        batch.Targets(target, choose_format(target)),
        Progress([source], quiet=True),
        provenance=settings.provenance(detector.bundle, detector.calls, "benchmark"),
        identity={},
        resume=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bundle", default="")
    parser.add_argument("--kilobases", type=float, default=600)
    parser.add_argument("--batch-size", default=settings.AUTO)
    parser.add_argument("--lengths", default="300,1000,3000")
    arguments = parser.parse_args()
    hosts.start()
    if arguments.bundle:
        detector = Detector.load(arguments.bundle, batch_size=arguments.batch_size)
        members = detector.bundle.manifest["members"]
        readings = {name: bundle.Reading(**values) for name, values in members.items()}
    else:
        detector, readings = random_detector(settings.batch_tokens(arguments.batch_size))
    meter = Meter(detector, readings)
    rng = np.random.default_rng(0)
    names = ("kb/CPU-s", "kb/s", "of matmul", "in step", "of own", "used", "rows", "matmul")
    print(f"batches of {detector.batch_tokens:,} tokens")
    print(f"{'bases':>8}" + "".join(f"{name:>12}" for name in names))
    for length in map(int, arguments.lengths.split(",")):
        with fasta(simulated(rng, length, round(1e3 * arguments.kilobases / length))) as files:
            score(detector, *files)  # which compiles
            meter.clear()
            rate = product_rate()
            begin, processor = time.perf_counter(), time.process_time()
            score(detector, *files)
            processor, wall = time.process_time() - processor, time.perf_counter() - begin
            rate, step = max(rate, product_rate()), meter.step_rate()
        shares = (
            *(meter.flop / processor / rate, step / rate, step / meter.own_rate()),
            *(meter.used / meter.flop, meter.rows / processor),
        )
        print(
            f"{length:>8}{arguments.kilobases / processor:12.1f}{arguments.kilobases / wall:12.1f}"
            f"{''.join(f'{share:12.1%}' for share in shares)}{rate / 1e9:12.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
