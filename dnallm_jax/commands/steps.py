"""Which step does a command take of a config? The very one, on any devices, before it is compiled.

For `plan`: nothing here allocates an array, so the devices need not exist.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from data_pipeline.errors import UserError
from dnallm_jax.config import Config, tokenizer_spec

if TYPE_CHECKING:
    import jax
    import numpy as np
    from jax.sharding import Mesh

    from data_pipeline.tokenizers import Tokenizer
    from dnallm_jax.model.gpt import GPTSpec
    from dnallm_jax.planning.trial import Step


def pretrain(config: Config, devices: Sequence["jax.Device"]) -> "Step":
    """One update of the language model, on rows of the corpus."""
    from data_pipeline.loader import layout, stack
    from dnallm_jax.parallel import mesh as meshes
    from dnallm_jax.planning.roofline import Work
    from dnallm_jax.planning.trial import Step
    from dnallm_jax.training import pretraining

    tokenizer = _tokenizer(config)
    mesh = meshes.make_mesh(**vars(config.mesh), devices=devices)
    meshes.check_row(mesh, "corpus.row_length", config.corpus.row_length)
    program, spec, reasons = pretraining.program(config, tokenizer, mesh)
    state, shardings = program.abstract_state()
    row, rows = config.corpus.row_length, config.pretrain.batch_rows
    batch = stack([layout([], row, tokenizer)])
    return Step(
        name=f"{config.name}: pretrain, {_network(spec, state['params'])}",
        function=program.train_step(shardings),
        arguments=(state, _abstract(batch, rows, mesh)),
        held=_held(state),
        work=Work(
            spec,
            rows,
            row,
            float(tokenizer.token_lengths.max()),
            remat=config.execution.remat,
            tensor=mesh.shape["tensor"],
        ),
        mesh=mesh,
        reasons=(*meshes.describe(mesh), *reasons),
    )


def finetune(config: Config, devices: Sequence["jax.Device"]) -> "Step":
    """One update of the classifier, on its longest windows."""
    import numpy as np

    from data_pipeline.cutting import batch_rows
    from dnallm_jax.parallel import mesh as meshes
    from dnallm_jax.parallel.execution import choose, on_mesh
    from dnallm_jax.planning.roofline import Work
    from dnallm_jax.planning.trial import Step
    from dnallm_jax.training import finetuning, members

    tokenizer, settings = _tokenizer(config), config.finetune
    mesh = meshes.make_mesh(**vars(config.mesh), devices=devices)
    run, reasons = choose(**vars(config.execution), device=mesh.devices.flat[0])
    member = members.gpt_member(config, mesh, on_mesh(run, mesh), None, tokenizer.spec())
    program = finetuning.program(settings, member.network, mesh)
    state, shardings = program.abstract_state()
    window = max(settings.lengths)
    row = member.view.row_length(window)
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    rows = -(-batch_rows(row, settings.batch_tokens, 1) // parts) * parts
    batch = {
        **member.view.read([b""], window)[0],
        "labels": np.zeros(1, np.float32),
        "example_weights": np.zeros(1, np.float32),
    }
    spec = network(config)
    return Step(
        name=f"{config.name}: finetune, {_network(spec, state['params'])}",
        function=program.train_step(shardings),
        arguments=(state, _abstract(batch, rows, mesh)),
        held=_held(state),
        work=Work(
            spec,
            rows,
            row,
            window / row,
            causal=settings.causal,
            language_model=False,
            remat=config.execution.remat,
            tensor=mesh.shape["tensor"],
        ),
        mesh=mesh,
        reasons=(*meshes.describe(mesh), *reasons),
    )


def score(config: Config, devices: Sequence["jax.Device"]) -> "Step":
    """The log-odds of a batch of windows, each in one row; each device holds the whole network.

    `score` gives each segment of a window a row of its own where the network pools by a mean: the
    same arithmetic in shorter rows, so this is a bound from below on its speed.
    """
    import jax

    from data_pipeline.cutting import batch_rows
    from dnallm_jax.parallel import mesh as meshes
    from dnallm_jax.parallel.execution import choose, on_mesh
    from dnallm_jax.planning.roofline import Work
    from dnallm_jax.planning.trial import Step
    from dnallm_jax.scoring.batches import log_odds
    from dnallm_jax.training import members

    tokenizer = _tokenizer(config)
    config = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, data=-1, fsdp=1))
    mesh = meshes.make_mesh(**vars(config.mesh), devices=devices)
    run, reasons = choose(**vars(config.execution), device=mesh.devices.flat[0])
    member = members.gpt_member(config, mesh, on_mesh(run, mesh), None, tokenizer.spec())
    window = config.score.window
    row = member.view.row_length(window)
    rows = batch_rows(row, config.score.batch_tokens, mesh.shape["data"])
    batch = member.view.read([b""], window)[0]
    batch.pop("weights", None)
    params = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        jax.eval_shape(lambda: member.network.initialise(0)),
        meshes.tree_shardings(mesh, member.network.axes),
    )
    spec = network(config)
    return Step(
        name=f"{config.name}: score, {_network(spec, params)}",
        function=log_odds(member.network, mesh),
        arguments=(params, _abstract(batch, rows, mesh)),
        held={"parameters": params},
        work=Work(
            spec,
            rows,
            row,
            window / row / member.view.strands,
            causal=config.finetune.causal,
            language_model=False,
            training=False,
            tensor=mesh.shape["tensor"],
        ),
        mesh=mesh,
        reasons=(*meshes.describe(mesh), *reasons),
    )


STEPS: dict[str, Callable[[Config, Sequence["jax.Device"]], "Step"]] = {
    "pretrain": pretrain,
    "finetune": finetune,
    "score": score,
}


def _tokenizer(config: Config) -> "Tokenizer":
    from data_pipeline.tokenizers import from_spec

    if config.tokenizer.name == "bpe":
        raise UserError(
            "the tokens of tokenizer bpe are not known before prepare has learned them; plan with "
            "--config.tokenizer.name=kmer --config.tokenizer.k=6, whose vocabulary is as large"
        )
    return from_spec(tokenizer_spec(config.tokenizer))


def network(config: Config) -> "GPTSpec":
    """The dimensions of a config's network; UserError where its tokens are not known yet."""
    from dnallm_jax.config import gpt_spec

    return gpt_spec(config.model, _tokenizer(config).vocab_size)


def _network(spec: Any, params: Any) -> str:
    import jax

    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return f"{spec.layers} layers of {spec.width}, {count / 1e6:,.4g} M parameters"


def _held(state: Any) -> dict[str, Any]:
    names = {"params": "parameters", "optimizer": "optimizer", "ema": "mean of parameters"}
    return {names[key]: tree for key, tree in state.items() if key in names}


def _abstract(batch: dict[str, "np.ndarray"], rows: int, mesh: "Mesh") -> dict[str, Any]:
    """The shapes of `rows` rows like the one given, split as `mesh.to_device` splits them."""
    import jax

    from dnallm_jax.parallel import mesh as meshes

    return {
        key: jax.ShapeDtypeStruct(
            (rows, *value.shape[1:]),
            value.dtype,
            sharding=meshes.sharding(mesh, "batch", *(None,) * (value.ndim - 1)),
        )
        for key, value in batch.items()
    }
