"""Is the entropy of simulated genomes what is claimed, and the optimal classifier optimal?"""

import gzip
import itertools
import json

import numpy as np
import pytest

from data_pipeline import genome_probability, genome_source, markov, simulate
from data_pipeline.kmers import base_codes, kmers

HOST, VIRUS = simulate.demo_sources()
COMPLEMENT = bytes.maketrans(b"ACGT", b"TGCA")


def small_source(seed: int = 5) -> simulate.Source:
    """A source with short gaps and genes, so that short sequences meet every state."""
    rng = np.random.default_rng(seed)
    return simulate.random_source(
        "small",
        rng.gamma(1.0, size=(4, 4, 4)) + 0.05,
        rng.gamma(2.0, size=(3, 4, 4, 4)) + 0.05,
        gap_bases=3.0,
        gene_codons=2.0,
        same_strand=0.7,
    )


def all_sequences(length: int) -> list[bytes]:
    return [bytes(letters) for letters in itertools.product(b"ACGT", repeat=length)]


def reverse_complement(bases: bytes) -> bytes:
    return bases.translate(COMPLEMENT)[::-1]


def check_total_probability(source: simulate.Source, length: int) -> None:
    total = np.exp2(simulate.log2_probability(source, all_sequences(length))).sum()
    assert total == pytest.approx(1, abs=1e-9)


def check_strands(source: simulate.Source, length: int) -> None:
    sequences = all_sequences(length)
    forward = simulate.log2_probability(source, sequences)
    backward = simulate.log2_probability(source, [reverse_complement(s) for s in sequences])
    np.testing.assert_allclose(forward, backward, atol=1e-9)


def by_all_paths(source: simulate.Source, bases: bytes) -> float:
    """The probability as a sum over every path of hidden states, one by one."""
    law = genome_source.tables(source)
    codes = base_codes(bases).tolist()
    contexts = [0, 1 + codes[0], *(5 + 4 * a + b for a, b in itertools.pairwise(codes))]

    def after(at: int, state: int) -> float:
        here = law.emit[contexts[at], codes[at], state]
        if at + 1 == len(codes) or here == 0:
            return here
        following = np.flatnonzero(law.step[state])
        return here * sum(law.step[state, there] * after(at + 1, there) for there in following)

    return sum(law.start[state] * after(0, state) for state in range(len(law.start)))


@pytest.mark.parametrize("source", [small_source(), VIRUS], ids=["small", "virus"])
def test_the_process_is_a_stationary_one(source):
    law = genome_source.tables(source)
    np.testing.assert_allclose(law.step.sum(1), 1)
    np.testing.assert_allclose(law.start @ law.step, law.start, atol=1e-12)
    assert law.start.sum() == pytest.approx(1)
    possible = law.emit.sum(1)
    assert np.all(np.isclose(possible, 1) | (possible == 0))


@pytest.mark.parametrize("length", [1, 2, 3, 6])
def test_probabilities_of_all_sequences_sum_to_one(length):
    check_total_probability(small_source(), length)
    check_total_probability(HOST, length)


@pytest.mark.parametrize("bases", [b"A", b"CAT", b"ATGAAATAA", b"TTACATGGCTGA"])
def test_the_filter_is_the_sum_over_all_paths(bases):
    source = small_source()
    exact = np.log2(by_all_paths(source, bases))
    assert simulate.log2_probability(source, [bases])[0] == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize("length", [1, 3, 5, 7])
def test_both_strands_have_the_same_probability(length):
    check_strands(small_source(), length)
    check_strands(VIRUS, length)


def test_planted_fault_reverse_genes_that_are_not_complemented_are_caught(monkeypatch):
    source = small_source()
    genome_source.tables.cache_clear()
    monkeypatch.setattr(genome_source, "_REVERSE", np.arange(64))
    with pytest.raises(AssertionError):
        check_strands(source, 5)
    genome_source.tables.cache_clear()


def test_planted_fault_a_source_that_does_not_start_stationary_is_caught(monkeypatch):
    law = genome_source.tables(source := small_source())
    wrong = genome_source.Tables(np.eye(len(law.start))[0], law.step, law.emit)
    monkeypatch.setattr(genome_probability, "tables", lambda _: wrong)
    check_total_probability(source, 4)  # still a probability, but
    with pytest.raises(AssertionError):
        check_strands(source, 4)


def check_frequencies(source: simulate.Source, drawn: list[bytes]) -> None:
    """Chi-square of the drawn sequences, all of one short length, against their probabilities."""
    length = len(drawn[0])
    words = kmers(base_codes(b"N".join(drawn)), length)[0]
    seen = np.bincount(words, minlength=4**length)
    expected = len(drawn) * np.exp2(simulate.log2_probability(source, all_sequences(length)))
    chi_square = float(((seen - expected) ** 2 / expected).sum())
    assert abs(chi_square - (4**length - 1)) < 5 * np.sqrt(2 * 4**length)


def test_what_is_sampled_has_the_probabilities_that_are_claimed():
    source = small_source()
    check_frequencies(source, simulate.sample_many(source, [5] * 150_000, np.random.default_rng(3)))


def test_samples_are_stationary_from_the_first_base_to_the_last():
    source = small_source()
    drawn = simulate.sample_many(source, [200] * 30_000, np.random.default_rng(4))
    for at in (0, 100, 196):
        check_frequencies(source, [s[at : at + 4] for s in drawn])


def test_planted_fault_sequences_that_start_with_a_gap_are_caught(monkeypatch):
    source = small_source()
    monkeypatch.setattr(genome_source, "_skipped", lambda _source, gaps, *_: np.zeros_like(gaps))
    drawn = simulate.sample_many(source, [5] * 150_000, np.random.default_rng(3))
    with pytest.raises(AssertionError):
        check_frequencies(source, drawn)


def test_genes_read_as_genes():
    """In a source of endless genes, one strand and one frame are free of stop codons throughout."""
    source = simulate.random_source(
        "genes",
        np.ones((4, 4, 4)),
        np.ones((3, 4, 4, 4)),
        gap_bases=1,
        gene_codons=1e7,
        same_strand=0.5,
    )
    stops = {b"TAA", b"TAG", b"TGA"}
    for bases in simulate.sample_many(source, [900] * 20, np.random.default_rng(0)):
        frames = [
            [strand[at : at + 3] for at in range(frame, 898, 3)]
            for strand in (bases, reverse_complement(bases))
            for frame in range(3)
        ]
        assert sum(stops.isdisjoint(codons) for codons in frames) == 1


def test_given_bases_and_mixed_lengths():
    rng = np.random.default_rng(1)
    lengths = [0, 1, 2, 5, 40, 40, 700, 33, 16]
    drawn = simulate.sample_many(HOST, lengths, rng)
    assert [len(s) for s in drawn] == lengths
    whole = simulate.log2_probability(HOST, drawn)
    alone = [simulate.log2_probability(HOST, [s])[0] for s in drawn]
    np.testing.assert_allclose(whole, alone, atol=1e-9)
    heads = simulate.log2_probability(HOST, [s[:5] for s in drawn])
    tails = simulate.log2_probability(HOST, drawn, given=5)
    np.testing.assert_allclose(tails, whole - heads, atol=1e-9)
    assert simulate.log2_probability(HOST, []).shape == (0,)
    with pytest.raises(ValueError, match="A, C, G and T only"):
        simulate.log2_probability(HOST, [b"ACGN"])


def test_the_entropy_rate_is_that_of_long_samples():
    rate, error = simulate.entropy_rate(VIRUS, lanes=128, bases=2048)
    assert error < 0.001
    drawn = simulate.sample_many(VIRUS, [5000] * 200, np.random.default_rng(8))
    each = -simulate.log2_probability(VIRUS, drawn, given=500) / 4500
    assert abs(rate - each.mean()) < 4 * np.hypot(error, each.std() / np.sqrt(200))
    # A plug-in estimate, the best Markov model of many bases, comes near it from above.
    codes = [base_codes(s) for s in drawn]
    bits = markov.fit(codes[:150], range(7), both_strands=True).bits_per_base(codes[150:])
    assert rate < min(bits.values()) < rate + 0.03


def test_the_entropy_of_a_source_without_genes_is_that_of_its_chain():
    source = simulate.random_source(
        "gaps",
        np.random.default_rng(2).gamma(2.0, size=(4, 4, 4)),
        np.ones((3, 4, 4, 4)),
        gap_bases=1e9,
        gene_codons=1,
        same_strand=0.5,
    )
    words = np.reshape(source.gaps, (16, 4))
    exact = -float((words * np.log2(words / words.sum(1, keepdims=True))).sum())
    rate, error = simulate.entropy_rate(source, lanes=128, bases=1024, warm_up=16)
    assert rate == pytest.approx(exact, abs=max(5 * error, 1e-5))


def test_a_model_that_sees_less_pays_more():
    rng = np.random.default_rng(6)
    genomes = [s for x in (HOST, VIRUS) for s in simulate.sample_many(x, [4096] * 6, rng)]
    own = -sum(
        simulate.log2_probability(source, part).sum()
        for source, part in ((HOST, genomes[:6]), (VIRUS, genomes[6:]))
    ) / (12 * 4096)
    bits = [simulate.optimal_bits_per_base((HOST, VIRUS), genomes, n) for n in (0, 1024, 128, 16)]
    assert own < bits[0] < own + 1.01 / 4096
    assert bits == sorted(bits)
    first = simulate.optimal_bits_per_base((HOST, VIRUS), genomes, 16, given=1)
    letters = simulate.optimal_bits_per_base((HOST, VIRUS), genomes, 1)
    assert first == pytest.approx((16 * bits[-1] - letters) / 15, abs=0.01)


def test_the_likelihood_ratio_is_the_odds():
    """Of sequences with a ratio near r, the share r / (1 + r) is viral; and it ranks best."""
    rng = np.random.default_rng(7)
    sequences = [s for x in (HOST, VIRUS) for s in simulate.sample_many(x, [300] * 3000, rng)]
    labels = np.repeat([0, 1], 3000)
    llr = simulate.bayes_llr(VIRUS, HOST, sequences)
    probability = 1 / (1 + np.exp(-llr))
    for low in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9):
        chosen = (probability >= low) & (probability < low + 0.2)
        assert labels[chosen].mean() == pytest.approx(probability[chosen].mean(), abs=0.05)
    best = simulate.auroc(labels, llr)
    assert 0.90 < best < 0.96
    gc = np.array([s.count(b"G") + s.count(b"C") for s in sequences])
    assert max(simulate.auroc(labels, gc), simulate.auroc(labels, -gc)) < best


def test_auroc_by_all_pairs():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 60), rng.integers(0, 9, 60)
    pairs = [(a > b) + (a == b) / 2 for a in scores[labels == 1] for b in scores[labels == 0]]
    assert simulate.auroc(labels, scores) == pytest.approx(np.mean(pairs))


def test_a_source_is_json_and_refuses_nonsense():
    spec = json.loads(json.dumps(HOST.spec()))
    assert simulate.Source.from_spec(spec) == HOST
    with pytest.raises(ValueError, match="not a stationary"):
        simulate.Source.from_spec(spec | {"gaps": sorted(spec["gaps"])})


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    settings = {"train_genomes": 3, "validation_genomes": 4, "genome_bases": 2048, "contigs": 40}
    truth = simulate.write_demo(folder, 1, **settings)
    return folder, truth, settings


def read_fasta(path) -> dict[str, tuple[dict[str, str], bytes]]:
    records = {}
    for record in gzip.decompress(path.read_bytes()).split(b">")[1:]:
        header, bases = record.split(b"\n", 1)
        id_, *words = header.decode().split()
        records[id_] = (dict(word.split("=") for word in words), bases.replace(b"\n", b""))
    return records


def test_the_demo_is_written_whole_and_in_the_same_bytes(demo, tmp_path):
    folder, truth, settings = demo
    assert json.loads((folder / "truth.json").read_text()) == truth
    again = simulate.write_demo(tmp_path, 1, **settings)
    assert again == truth
    files = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    assert len(files) == 9
    assert all((folder / f).read_bytes() == (tmp_path / f).read_bytes() for f in files)
    for name in ("genomes_train", "validation", "test"):
        records = read_fasta(folder / "virus" / f"{name}.fa.gz")
        header, *rows = (folder / "virus" / f"{name}.tsv").read_text().splitlines()
        table = {
            r.split("\t")[0]: dict(zip(header.split("\t"), r.split("\t"), strict=True))
            for r in rows
        }
        assert list(table) == list(records)
        for id_, (fields, bases) in records.items():
            assert fields["label"] == table[id_]["label"] == str(int("virus" in id_))
            assert fields["cluster"] == table[id_]["cluster"] == id_
            assert len(bases) == int(table[id_]["length"])
            assert table[id_]["split"] == ("train" if name == "genomes_train" else name)


def test_the_truth_is_that_of_the_files(demo):
    folder, truth, _ = demo
    host, virus = (simulate.Source.from_spec(truth["sources"][n]) for n in ("host", "virus"))
    genomes = [bases for _, bases in read_fasta(folder / "pretrain" / "validation.fa.gz").values()]
    told = truth["pretrain_validation"]
    assert told["bits_per_base"] == simulate.optimal_bits_per_base((host, virus), genomes)
    assert told["bases"] == sum(map(len, genomes)) == 8 * 2048
    rates = [truth["entropy_rate"][name]["bits_per_base"] for name in ("host", "virus")]
    # One bit in 2,048 bases tells the source.
    expected = np.mean(rates) + 1 / 2048
    assert told["bits_per_base"] == pytest.approx(expected, abs=4 * told["standard_error"])
    for split in ("validation", "test"):
        records = read_fasta(folder / "virus" / f"{split}.fa.gz").values()
        labels = np.array([int(fields["label"]) for fields, _ in records])
        llr = simulate.bayes_llr(virus, host, [bases for _, bases in records])
        assert truth["bayes_auroc"][split]["all"] == simulate.auroc(labels, llr)
