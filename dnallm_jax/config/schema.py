"""What can be set? Every key of a config file, its type, its default and what it means.

The dataclasses below are the schema of a recipe's one config file, section by section.
"""

import dataclasses
import typing
from typing import Any

if typing.TYPE_CHECKING:
    from dnallm_jax.model.gpt import GPTSpec


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    name: str = "nucleotide"  # nucleotide | kmer | bpe | codon
    k: int = 1  # bases per token (kmer)
    stride: int = 0  # 1: a k-mer at every base (kmer, for a classifier without pre-training)
    vocab_size: int = 4096  # at most so many tokens are learned from the corpus (bpe)
    min_codons: int = 30  # open stretches are at least so long (codon) ...
    max_overlap: float = 0.3  # ... and less of one than this lies under longer ones (codon)


# What each tokenizer reads of it.
TOKENIZER_KEYS: dict[str, tuple[str, ...]] = {
    "nucleotide": (),
    "kmer": ("k", "stride"),
    "bpe": ("vocab_size",),
    "codon": ("min_codons", "max_overlap"),
}


@dataclasses.dataclass(frozen=True)
class Corpus:
    """`prepare`: genomes for pre-training. Paths are relative to `root`."""

    sources: tuple[str, ...] = ()
    validation_sources: tuple[str, ...] = ()
    validation_fraction: float = (
        0.0  # of the bases, whole clusters; used without validation_sources
    )
    # Header key that names a record's cluster; "": by k-mer sketches; "genus+kmers": by both.
    cluster_key: str = ""
    metadata: str = ""  # a CSV or TSV table with a row a record; its columns are as header words
    exclude: tuple[str, ...] = ()  # header words, e.g. "group=euk-virus"
    row_length: int = 1024  # tokens
    max_bases: int = 0  # 0: all
    soft_mask_weight: float = 1.0  # loss weight of lower-case bases in training
    wrap_circular: bool = False  # circular genomes go on with their first bases to fill a row
    phases: int = 1  # k-mers of a training record are read from each of its first `phases` bases
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Contigs:
    """`prepare`: labelled records for fine-tuning and evaluation. Paths are relative to `root`."""

    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    validation_fraction: float = 0.0
    cluster_key: str = "cluster"
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Model:
    width: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    head_width: int = 64
    feed_forward: int = 768
    rope_base: float = 10_000.0
    lookback: int = 0  # so many earlier tokens are embedded with each token, by look-up
    window: int = 0  # a token attends only to those fewer than so many away; 0: to all


@dataclasses.dataclass(frozen=True)
class Execution:
    """How the model runs; "auto" chooses by platform and says so in the run header."""

    dtype: str = "auto"  # bfloat16 on accelerators; float32 on CPU, which has no fast bfloat16
    attention: str = "auto"
    unroll: str = "auto"  # "yes" | "no" | "auto"
    # What of a block is computed again in the backward pass, for less memory. none: nothing; block:
    # all; dots: all but products with parameters; offload: as dots, these in the host's memory.
    remat: str = "none"


# What each field of Execution takes; the attention back ends are those of model/attention.py,
# the rematerialisations those of model/gpt.py.
EXECUTION_CHOICES = {
    "dtype": ("auto", "float32", "bfloat16"),
    "attention": ("auto", "blockwise", "headwise", "reference", "splash", "flash"),
    "unroll": ("auto", "yes", "no"),
    "remat": ("none", "block", "dots", "offload"),
}


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices along each mesh axis; one of them may be -1, which takes what is left.

    What each axis splits is the table in parallel/mesh.py. Slices of a TPU lie along `data`.
    """

    data: int = 1
    fsdp: int = -1
    tensor: int = 1
    sequence: int = 1  # splits the rows themselves, for long ones (pretrain)


@dataclasses.dataclass(frozen=True)
class Optimizer:
    name: str = "adamw"  # adamw | muon (for the matrices of blocks; not in the composition section)
    learning_rate: float = 1e-3  # peak
    warmup_steps: int = 100
    schedule: str = "cosine"  # after the warm-up: cosine | wsd (stable, then a line down)
    decay_fraction: float = 0.2  # of the steps after the warm-up: the line down (wsd)
    final_fraction: float = 0.1  # of the peak, at the end
    weight_decay: float = 0.1  # of matrices; norms, biases and embeddings are never decayed
    beta1: float = 0.9  # these two of AdamW
    beta2: float = 0.95
    clip: float = 1.0  # global gradient norm; 0: gradients are not clipped
    # The model.width at which learning_rate was found: of wider models the matrices take smaller
    # steps (training/optimizer.py says by which rule). 0: the same steps at any width.
    base_width: int = 0


@dataclasses.dataclass(frozen=True)
class Pretrain:
    steps: int = 1000
    # "WORKDIR=WEIGHT": so often a row comes from the corpus prepared in that workdir; (): all from
    # this workdir's own.
    mixture: tuple[str, ...] = ()
    batch_rows: int = 32  # rows of a global batch
    accumulate: int = 1  # parts of a batch that are worked on one after the other, for less memory
    ema: float = 0.0  # weight of the old in a running mean of the parameters, e.g. 0.999; 0: none
    z_loss: float = 0.0  # weight of the squared log-partition of the logits, e.g. 1e-4
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    log_every: int = 10
    eval_every: int = 200
    eval_rows: int = 256  # rows of the validation split, at even distances, the same each time
    save_every: int = 200
    keep: int = 2  # newest checkpoints kept, beside the best
    keep_every: int = 0  # checkpoints of every so many steps stay for ever; 0: none
    spike: float = 0.0  # a loss above so many times the mean of 32 steps is bad, as NaN is; 0: none
    on_bad_step: str = "stop"  # stop | leave_out (from the last checkpoint on) | skip (NaN alone)
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Lora:
    """Low-rank adapters, where `finetune.train` is lora."""

    rank: int = 8
    alpha: float = 16.0  # what they add is times alpha / rank
    matrices: tuple[str, ...] = ("wq", "wv")  # of each block: wq wk wv wo gate up down


@dataclasses.dataclass(frozen=True)
class Finetune:
    steps: int = 1000
    # "pretrain": this workdir's newest pre-training checkpoint; "random": none; else a folder.
    backbone: str = "pretrain"
    train: str = "full"  # full | head | lora (the backbone's matrices stay, thin ones are added)
    lora: Lora = dataclasses.field(default_factory=Lora)
    freeze_steps: int = 0  # first steps train the head alone
    layer_decay: float = 1.0  # a block's learning rate is so many times that of the one above it
    dropout: float = 0.0  # share of its inputs that the head does not see in training
    batch_tokens: int = 16_384  # a batch holds batch_tokens / (length in tokens) windows
    lengths: tuple[int, ...] = (300, 500, 1000, 3000)  # bases of a training window, one per batch
    length_weights: tuple[float, ...] = ()  # how often each is drawn; (): evenly
    # Above 0: windows have all lengths from this one up, evenly in log length, in rows for the next
    # longer of `lengths`.
    min_length: int = 0
    start_step: int = (
        1  # windows begin at its multiples; at 1 anywhere, so in every phase of k-mers
    )
    strands: str = "both"  # both: one is drawn for each window | forward
    balance_key: str = "cluster"  # viruses are drawn evenly over this field ...
    # ... and everything else over this one. group/cluster draws a group first, then one of its
    # clusters; family^0.5/cluster lies between equal families and equal clusters; records of
    # unknown family are drawn as often as others are on average (data_pipeline/balancing.py)
    negative_balance_key: str = "group"
    negative_weights: tuple[str, ...] = ()  # "bacteria=4": drawn four times as often as others
    max_ambiguous: float = 0.05  # share of N above which a window is drawn again
    mutate: float = 0.0  # share of bases replaced at random, an augmentation
    unknown: float = 0.0  # share of bases hidden in runs of N of 1 to 100 bases, another
    view: str = "bases"  # bases (both strands) | frames (codons of the open reading frames)
    pooling: str = "mean"  # mean | last | attention (a mean with learned weights)
    causal: bool = True  # False: every token sees all of its segment, whatever pre-training did
    optimizer: Optimizer = dataclasses.field(
        default_factory=lambda: Optimizer(learning_rate=5e-4, weight_decay=0.05)
    )
    log_every: int = 10
    eval_every: int = 200
    eval_contigs: int = 0  # 0: the whole validation split
    # So many evaluations without a better average precision end the training; 0: none do.
    patience: int = 0
    save_every: int = 200  # the best evaluated so far is saved in any case
    keep: int = 2
    keep_every: int = 0  # these three as in pretrain
    spike: float = 0.0
    on_bad_step: str = "stop"
    seed: int = 0
    seeds: int = 1  # GPTs trained from so many seeds, `seed` and those after it ...
    ensemble: bool = False  # ... all of them in the bundle, joined; else the best


@dataclasses.dataclass(frozen=True)
class Composition:
    """Small networks on k-mers and what open reading frames say, joined to the GPT.

    Windows are drawn as the `finetune` section says.
    """

    steps: int = 0  # 0: the GPT alone
    networks: int = 1  # so many side by side; their log-odds are averaged
    widths: tuple[int, ...] = (768, 256)
    dropout: float = 0.5
    feature_dropout: float = 0.0
    batch_windows: int = 256
    lengths: tuple[int, ...] = (300, 400, 500, 700, 1000, 1400, 2000, 3000, 4000, 5000, 7000, 10000)
    window: int = 10_000  # bases of the windows that a longer sequence is cut into
    mutate: float = 0.0
    optimizer: Optimizer = dataclasses.field(
        default_factory=lambda: Optimizer(learning_rate=1e-3, weight_decay=0.01)
    )
    log_every: int = 10
    eval_every: int = 100
    save_every: int = 100
    keep: int = 2
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Tune:
    """`tune`: a search over keys of the finetune section, judged on validation contigs."""

    trials: int = 20  # at most
    hours: float = 0.0  # after so many, all trials together, none is begun; 0: no limit
    startup: int = 5  # first trials are drawn at random, and none is ended early
    seed: int = 0
    # One line a key: KEY = LOW .. HIGH, with log after it or not, or KEY = ONE | OTHER.
    space: tuple[str, ...] = (
        "finetune.optimizer.learning_rate = 1e-4 .. 5e-3 log",
        "finetune.optimizer.schedule = cosine | wsd",
        "finetune.pooling = mean | attention",
        "finetune.layer_decay = 0.5 .. 1",
        "finetune.dropout = 0.0 | 0.1 | 0.3",
    )


@dataclasses.dataclass(frozen=True)
class Score:
    window: int = 3000  # bases of the windows that a longer sequence is cut into
    overlap: int = 0  # bases that neighbouring windows share: costs time, see benchmarks/LOG.md
    batch_tokens: int = 16_384
    false_positive_rate: float = 0.01  # `is_virus` is called at this rate on validation


@dataclasses.dataclass(frozen=True)
class Config:
    """One recipe: data, model, training and scoring."""

    name: str = "unnamed"
    root: str = "."  # folder that relative data paths start from
    tokenizer: Tokenizer = dataclasses.field(default_factory=Tokenizer)
    corpus: Corpus = dataclasses.field(default_factory=Corpus)
    contigs: Contigs = dataclasses.field(default_factory=Contigs)
    model: Model = dataclasses.field(default_factory=Model)
    execution: Execution = dataclasses.field(default_factory=Execution)
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    pretrain: Pretrain = dataclasses.field(default_factory=Pretrain)
    finetune: Finetune = dataclasses.field(default_factory=Finetune)
    composition: Composition = dataclasses.field(default_factory=Composition)
    score: Score = dataclasses.field(default_factory=Score)
    tune: Tune = dataclasses.field(default_factory=Tune)


def tokenizer_spec(tokenizer: Tokenizer) -> dict[str, Any]:
    """What `data_pipeline.tokenizers.from_spec` takes; for bpe, what `prepare` shall learn."""
    given = {key: getattr(tokenizer, key) for key in TOKENIZER_KEYS[tokenizer.name]}
    if not tokenizer.stride:
        given.pop("stride", None)
    return {"name": tokenizer.name} | given


def gpt_spec(model: Model, vocab_size: int) -> "GPTSpec":
    """The network of a config, for a tokenizer's vocabulary."""
    from dnallm_jax.model.gpt import GPTSpec  # JAX is not loaded to read a config

    return GPTSpec(vocab_size=vocab_size, **vars(model))
