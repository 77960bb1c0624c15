"""python main.py plan --config=configs/NAME.py --topology=v5e:4x4 [--slices=2]
                    [--step=pretrain|finetune|score] [--price=DOLLARS] [--search]
                    [--config.KEY=VALUE ...]

Does a step of this config fit a TPU, and how fast can it be there? Compiles the very step that
pretrain, finetune or score runs with the compiler of TPUs, which needs no TPU (install
requirements-tpu.txt), and prints memory, what goes over the networks, and the bound that
arithmetic, memory and networks set to its speed. docs/plan.md says how to read it.

  --topology=NAME  generation and shape of a slice: v4:2x2x2, v5e:2x4, v5p:8x8x8, v6e:16x16,
                   7x:4x4x4
  --slices=N       so many slices of it, joined by the data centre's network
  --step=NAME      pretrain, finetune (its longest windows) or score
  --price=DOLLARS  of a chip for an hour: adds dollars per billion bases
  --search         tries meshes, rows at once and remat policies of pretrain, and ends with the
                   flags that have the best bound
  --compiles=N     at most so many of them are compiled, minutes each, after an estimate of all (4)

Exit code 2, with one line, where it does not fit.
"""

import os

from absl import flags

from data_pipeline.errors import UserError
from dnallm_jax.commands import common, steps


def define_flags() -> None:
    common.define_config_flags()
    flags.DEFINE_string("topology", "", "generation and shape of a slice, for example v5e:4x4")
    flags.DEFINE_integer("slices", 1, "slices of that shape")
    flags.DEFINE_string("step", "pretrain", f"one of {', '.join(steps.STEPS)}")
    flags.DEFINE_float("price", None, "dollars of a chip for an hour")
    flags.DEFINE_boolean("search", False, "look for the mesh, batch and remat policy that are best")
    flags.DEFINE_integer("compiles", 4, "programs that a search compiles at most")


def run(arguments: list[str]) -> None:
    common.refuse_arguments(arguments)
    options, config = flags.FLAGS, common.config()
    if not options.topology:
        raise UserError("--topology is missing; name a TPU slice, for example --topology=v5e:2x4")
    if options.step not in steps.STEPS:
        raise UserError(f"--step={options.step} is not one of {', '.join(steps.STEPS)}")
    if options.search and options.step != "pretrain":
        raise UserError("--search is for the step of pretrain; leave out --step")
    if options.compiles < 1:
        raise UserError(f"--compiles={options.compiles}: a search compiles at least one program")
    os.environ["JAX_PLATFORMS"] = "cpu"  # the TPU of this machine, if any, is left alone

    from dnallm_jax.planning import search, topology, trial

    named = topology.describe(options.topology, options.slices)
    if options.search:
        found = search.best(
            config,
            steps.network(config),
            named,
            lambda config: steps.pretrain(config, named.devices),
            compiles=options.compiles,
            say=lambda line: print(line, flush=True),
        )
        verdict = found.verdict
        print(f"best        {' '.join(found.overrides)}")
    else:
        verdict = trial.assess(steps.STEPS[options.step](config, named.devices), named)
    if not verdict.fits:
        raise UserError(trial.too_large(verdict))
    for line in trial.lines(verdict, options.price):
        print(line)
