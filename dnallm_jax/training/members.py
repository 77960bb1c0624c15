"""Which networks is a detector made of, and what does each read and train on?

A detector has up to two members that are trained one after the other, each on windows of its own:
the GPT, and small networks on the composition of a window.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from data_pipeline.contigs import Contigs
from data_pipeline.errors import UserError
from data_pipeline.loader import Batch
from data_pipeline.tokenizers import from_spec
from data_pipeline.views import Bases, Composition, Frames, View, make_view
from dnallm_jax.config import Config, Finetune, gpt_spec, tokenizer_spec
from dnallm_jax.model import adapters
from dnallm_jax.model.composition import CompositionSpec, standardisation
from dnallm_jax.model.gpt import Execution, GPTSpec
from dnallm_jax.model.network import Network, composition_network, gpt_network
from dnallm_jax.parallel import mesh as meshes
from dnallm_jax.planning.flops import flops_per_token, formula
from dnallm_jax.training.checkpoints import read_manifest
from dnallm_jax.training.windows import composition_settings, window_batches

_FIRST_BATCHES = 8  # from which the spread of the composition's features is taken


@dataclasses.dataclass(frozen=True)
class Member:
    """One network of a detector, what it reads, and how it is trained."""

    name: str  # gpt | composition
    network: Network
    view: View
    settings: Finetune
    flops_per_token: float
    formula: str  # of flops_per_token
    backbone: pathlib.Path | None = None  # the pre-training checkpoint (`.../<step>`)


def tokenizer_of(
    config: Config, backbone: pathlib.Path | None, learned: Callable[[], Mapping[str, Any]]
) -> Mapping[str, Any]:
    """The specification of the tokenizer that a config asks for, whole.

    Of bpe a config says only what is to be learned: its tokens are the backbone's, or, without one,
    those that `learned` gives. UserError where the backbone has tokens of another kind.
    """
    asked = tokenizer_spec(config.tokenizer)
    if asked["name"] != "bpe":
        return asked
    if backbone is None:
        return learned()
    found = read_manifest(backbone)["tokenizer"]
    if found["name"] != "bpe":
        raise UserError(_unlike(backbone, "tokenizer", found, asked))
    return found


def gpt_member(
    config: Config,
    mesh: Mesh,
    run: Execution,
    backbone: pathlib.Path | None,
    tokenizer: Mapping[str, Any],
) -> Member:
    """The GPT under a binary head; UserError where the mesh or the backbone does not fit it."""
    settings = config.finetune
    view = make_view(settings.view, from_spec(tokenizer))
    spec = gpt_spec(config.model, from_spec(tokenizer).vocab_size)
    meshes.check_whole_rows(mesh)
    meshes.check_divides(mesh, spec)
    if backbone is not None:
        check_backbone(backbone, spec, tokenizer)
    row, causal = view.row_length(max(settings.lengths)), settings.causal
    forward_only = settings.train == "head"  # there is no backward pass through the blocks
    network = gpt_network(
        spec,
        run,
        pooling=settings.pooling,
        causal=causal,
        dropout=settings.dropout,
        seed=settings.seed,
    )
    if settings.train == "head":
        network = adapters.head_only(network)
    elif settings.train == "lora":
        network = adapters.adapted(network, adapters.AdapterSpec(**vars(settings.lora)))
    return Member(
        name="gpt",
        network=network,
        view=view,
        settings=settings,
        flops_per_token=flops_per_token(
            spec,
            row,
            causal=causal,
            language_model=False,
            training=not forward_only,
        ),
        formula=formula(causal=causal, training=not forward_only, window=spec.window),
        backbone=backbone,
    )


def composition_member(config: Config, contigs: Contigs) -> Member:
    """Small networks on the composition of a window, drawn as the GPT's windows are."""
    chosen, view = config.composition, Composition()
    spec = CompositionSpec(
        features=view.features,
        widths=chosen.widths,
        networks=chosen.networks,
        dropout=chosen.dropout,
        feature_dropout=chosen.feature_dropout,
    )
    settings = composition_settings(config)
    windows = window_batches(settings, contigs, view, parts=1, process=0, processes=1)
    first = np.concatenate([windows(number)["features"] for number in range(_FIRST_BATCHES)])
    weights = sum(a * b for a, b in itertools.pairwise((view.features, *spec.widths, 1)))
    return Member(
        name="composition",
        network=composition_network(spec, seed=chosen.seed, standard=standardisation(first)),
        view=view,
        settings=settings,
        flops_per_token=6.0 * spec.networks * weights,
        formula="6 x weights",
    )


def check_backbone(backbone: pathlib.Path, spec: GPTSpec, tokenizer: Mapping[str, Any]) -> None:
    """UserError for what is no pre-training checkpoint, or has another tokenizer or dimensions."""
    manifest = read_manifest(backbone)
    if manifest["kind"] != "pretrain":
        raise UserError(
            f"{backbone} is a checkpoint of {manifest['kind']}; --config.finetune.backbone names a "
            "folder that pretrain wrote"
        )
    for name, theirs, ours in (
        ("tokenizer", manifest["tokenizer"], tokenizer),
        ("model", vars(GPTSpec(**manifest["model"])), vars(spec)),
    ):
        if theirs != ours:
            raise UserError(_unlike(backbone, name, theirs, ours))


def _unlike(backbone: pathlib.Path, name: str, theirs: Any, ours: Any) -> str:
    theirs, ours = (
        {key: value for key, value in own.items() if key != "merges"} for own in (theirs, ours)
    )
    return (
        f"{backbone} was pre-trained with {name} {theirs}, the config says {ours}; give "
        f"--config.{name}.* the checkpoint's values, or pre-train again"
    )


def bases_per_token(member: Member, windows: Callable[[int], Batch]) -> float:
    """For the progress line: of a token, or, where rows are no tokens, of a window.

    Of tokens that were learned it is that of the first batch.
    """
    if isinstance(member.view, Bases | Frames):
        lengths = member.view.tokenizer.token_lengths
        if member.view.tokenizer.name != "bpe":
            return float(lengths.max())
        own = lengths[windows(0)["tokens"]]
        return float(own[own > 0].mean())
    return sum(member.settings.lengths) / len(member.settings.lengths)
