"""Do the settings fit together? One sentence names the keys that do not."""

import functools
from typing import Any

from data_pipeline.corpus_options import mixture_of
from data_pipeline.errors import UserError
from dnallm_jax.config.schema import (
    EXECUTION_CHOICES,
    TOKENIZER_KEYS,
    Config,
    tokenizer_spec,
)

LORA_MATRICES = ("wq", "wk", "wv", "wo", "gate", "up", "down")  # those of model/adapters.py


def check(c: Config) -> None:
    """UserError for settings that make no sense, alone or together."""

    def require(holds: bool, sentence: str) -> None:
        if not holds:
            raise UserError(f"config {c.name}: {sentence}")

    def of(key: str) -> Any:
        return functools.reduce(getattr, key.split("."), c)

    def one_of(key: str, *known: str) -> None:
        words = " or ".join(known) if len(known) < 3 else f"one of {', '.join(known)}"
        require(of(key) in known, f"{key} {of(key)!r} is not {words}")

    def multiple(key: str, other: str) -> None:
        require(
            of(key) % of(other) == 0,
            f"{key} {of(key)} is not a multiple of {other} {of(other)}",
        )

    model, fine, composition = c.model, c.finetune, c.composition
    for key, size in vars(model).items():
        least = 0 if key in ("lookback", "window") else 1
        require(size >= least, f"model.{key} is {size}; it must be {least} or more")
    one_of("tokenizer.name", *TOKENIZER_KEYS)
    multiple("model.heads", "model.kv_heads")
    require(
        model.head_width % 2 == 0,
        f"model.head_width {model.head_width} must be even (rotary pairs)",
    )
    one_of("finetune.pooling", "mean", "last", "attention")
    one_of("finetune.train", "full", "head", "lora")
    require(fine.lora.rank > 0, "finetune.lora.rank must be at least 1")
    require(fine.lora.alpha > 0, "finetune.lora.alpha must be above 0")
    require(
        bool(fine.lora.matrices) and set(fine.lora.matrices) <= set(LORA_MATRICES),
        f"finetune.lora.matrices {fine.lora.matrices} must be some of {', '.join(LORA_MATRICES)}",
    )
    require(
        fine.train == "full" or (fine.backbone != "random" and not fine.freeze_steps),
        f"finetune.train {fine.train} leaves the backbone as it is: set finetune.backbone to a "
        "pre-trained one and finetune.freeze_steps to 0",
    )
    require(
        fine.train == "full" or not fine.optimizer.base_width,
        f"finetune.optimizer.base_width scales what finetune.train {fine.train} holds; set it to 0",
    )
    require(
        0 < fine.layer_decay <= 1,
        f"finetune.layer_decay is {fine.layer_decay}; choose more than 0, at most 1",
    )
    one_of("finetune.view", "bases", "frames")
    require(
        fine.view != "frames"
        or c.tokenizer.name == "codon"
        or tokenizer_spec(c.tokenizer) == {"name": "kmer", "k": 3},
        "finetune.view frames reads codons: set tokenizer.name to codon, or to kmer and "
        "tokenizer.k to 3",
    )
    for key, known in EXECUTION_CHOICES.items():
        one_of(f"execution.{key}", *known)
    for key in (
        *("corpus.validation_fraction", "contigs.validation_fraction", "pretrain.ema"),
        *("finetune.dropout", "finetune.mutate", "finetune.unknown", "composition.mutate"),
        *("composition.dropout", "composition.feature_dropout"),
    ):
        require(0 <= of(key) < 1, f"{key} is {of(key)}; choose 0 or more, less than 1")
    for key in ("finetune.lengths", "composition.lengths"):
        require(bool(of(key)), f"{key} is empty; name at least one window length in bases")
        require(
            all(isinstance(length, int) and length > 0 for length in of(key)),
            f"{key} {of(key)} are window lengths in bases: whole numbers above 0",
        )
    given = len(fine.length_weights)
    require(
        given in (0, len(fine.lengths)) and all(weight > 0 for weight in fine.length_weights),
        f"finetune.length_weights {fine.length_weights} must be one number above 0 for each of "
        f"finetune.lengths {fine.lengths}, or none",
    )
    require(
        0 <= fine.min_length <= min(fine.lengths),
        f"finetune.min_length is {fine.min_length}; choose 1 to {min(fine.lengths)}, the shortest "
        "of finetune.lengths, or 0 for windows of these lengths only",
    )
    one_of("finetune.strands", "both", "forward")
    require(fine.patience >= 0, "finetune.patience must be 0 (none) or more")
    require(composition.steps >= 0, "composition.steps must be 0 (the GPT alone) or more")
    require(
        bool(composition.widths) and min(composition.widths) > 0,
        f"composition.widths {composition.widths} must be one number above 0 or more",
    )
    require(0 < c.score.false_positive_rate < 1, "score.false_positive_rate lies between 0 and 1")
    require(
        0 <= c.score.overlap < max(c.score.window, 1),
        f"score.overlap is {c.score.overlap}; choose 0 or more, less than score.window",
    )
    for key in (
        *("corpus.row_length", "pretrain.batch_rows", "pretrain.accumulate", "pretrain.eval_rows"),
        *(
            "finetune.batch_tokens",
            "finetune.start_step",
            "composition.batch_windows",
            "composition.networks",
        ),
        *("composition.window", "score.window", "score.batch_tokens"),
        *("pretrain.steps", "finetune.steps", "finetune.seeds", "tune.trials"),
    ):
        require(of(key) > 0, f"{key} must be at least 1")
    multiple("pretrain.batch_rows", "pretrain.accumulate")
    mixture_of(c.pretrain.mixture)
    require(c.pretrain.z_loss >= 0, f"pretrain.z_loss is {c.pretrain.z_loss}; choose 0 or more")
    for section in ("pretrain", "finetune", "composition"):
        muon = ("muon",) if section != "composition" else ()
        one_of(f"{section}.optimizer.name", "adamw", *muon)
        one_of(f"{section}.optimizer.schedule", "cosine", "wsd")
        base = of(f"{section}.optimizer.base_width")
        require(
            base == 0 or (base > 0 and section != "composition"),
            f"{section}.optimizer.base_width is {base}; choose a width (not of composition), or 0",
        )
        for name in ("learning_rate", "warmup_steps", "final_fraction", "weight_decay", "clip"):
            key = f"{section}.optimizer.{name}"
            require(of(key) >= 0, f"{key} is {of(key)}; choose 0 or more")
        for key in (f"{section}.optimizer.beta1", f"{section}.optimizer.beta2"):
            require(0 <= of(key) < 1, f"{key} is {of(key)}; choose 0 or more, less than 1")
        key = f"{section}.optimizer.decay_fraction"
        require(0 < of(key) <= 1, f"{key} is {of(key)}; choose more than 0, at most 1")
        for key in ("log_every", "eval_every", "save_every", "keep"):
            require(of(f"{section}.{key}") > 0, f"{section}.{key} must be at least 1")
        for key in ("eval_every", "save_every"):
            # A resumed run then writes the same lines of metrics as one that was never stopped.
            multiple(f"{section}.{key}", f"{section}.log_every")
    for section in ("pretrain", "finetune"):
        one_of(f"{section}.on_bad_step", "stop", "leave_out", "skip")
        spike = of(f"{section}.spike")
        require(
            not spike or of(f"{section}.on_bad_step") != "skip",
            f"{section}.on_bad_step skip sees no spikes; set {section}.spike to 0, or leave_out",
        )
        require(
            spike == 0 or spike > 1,
            f"{section}.spike is {spike}; choose more than 1, or 0 for none",
        )
        require(of(f"{section}.keep_every") >= 0, f"{section}.keep_every must be 0 or more")
    require(
        list(vars(c.mesh).values()).count(-1) <= 1, "only one axis of mesh may be -1 (what is left)"
    )
