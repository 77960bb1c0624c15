"""Does a mistake in training end with one line that says what to do, exit code 2, no traceback?"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.contigs import ContigsOptions, build_contigs
from data_pipeline.corpus import Corpus, CorpusOptions, build_corpus, open_corpus
from data_pipeline.datasets import sole_writer
from data_pipeline.errors import UserError
from dnallm_jax.commands import training
from dnallm_jax.config import Config, Finetune, Mesh, Model, Pretrain, Tokenizer, gpt_spec, to_dict
from dnallm_jax.planning.flops import Peak
from dnallm_jax.training import pretraining
from dnallm_jax.training.checkpoints import Checkpoints, newest_whole
from dnallm_jax.training.members import check_backbone
from dnallm_jax.training.workdir import claim

ROOT = pathlib.Path(__file__).resolve().parents[3]
MODEL = Model(width=32, layers=1, heads=2, kv_heads=1, head_width=16, feed_forward=32)
TINY = Config(
    name="tiny",
    model=MODEL,
    pretrain=Pretrain(steps=16, batch_rows=4),
    finetune=Finetune(steps=16, lengths=(60,), batch_tokens=512),
)
RECIPES = {
    "tiny.py": """
        c.name = "tiny"
        m = c.model
        m.width, m.layers, m.heads, m.kv_heads, m.head_width, m.feed_forward = 32, 1, 2, 1, 16, 32
        c.pretrain.steps, c.pretrain.batch_rows = 16, 4
        c.finetune.steps, c.finetune.lengths, c.finetune.batch_tokens = 16, (60,), 512
    """,
    "misspelt.py": "c.pretrain.stepz = 5",
    "mistyped.py": "c.pretrain.steps = 'many'",
    "broken.py": "c.pretrain.steps = {}['steps']",
    "sizes.py": "c.model.heads, c.model.kv_heads = 4, 3",
}


@dataclasses.dataclass(frozen=True)
class Mistake:
    words: str  # of the command line; {w} and the like are workdirs, see `places`
    told: str  # the line on standard error, after "dnallm_jax "; {..} as above


USUAL = "--config=tiny.py --workdir={w}"
SOON = {
    "misspelt key": Mistake(
        f"pretrain {USUAL} --config.pretrain.stps=5",
        'pretrain: --config: there is no key \'stps\'. Did you mean "steps" instead of "stps"?',
    ),
    "misspelt section": Mistake(
        f"finetune {USUAL} --config.finetun.steps=5",
        "finetune: --config: there is no key 'finetun'. Did you mean \"finetune\" instead of "
        '"finetun"?',
    ),
    "key like no other": Mistake(
        f"prepare {USUAL} --config.qqq=5", "prepare: --config: there is no key 'qqq'"
    ),
    "misspelt key in the recipe": Mistake(
        "pretrain --config=misspelt.py --workdir={w}",
        'pretrain: --config: there is no key \'stepz\'. Did you mean "steps" instead of "stepz"?',
    ),
    "words for a number": Mistake(
        f"pretrain {USUAL} --config.pretrain.steps=many",
        "pretrain: flag --config.pretrain.steps=many: invalid literal for int() with base 10: "
        "'many'",
    ),
    "words for a number in the recipe": Mistake(
        "pretrain --config=mistyped.py --workdir={w}",
        "pretrain: flag --config=mistyped.py: Error whilst parsing config file: TypeError: Could "
        "not override field 'steps' (reference). many is of original type <class 'str'> and cannot "
        "be casted to type <class 'int'>",
    ),
    "misspelt flag": Mistake(
        "pretrain --cofig=tiny.py",
        "pretrain: Unknown command line flag 'cofig'. Did you mean: config ?",
    ),
    "no such recipe": Mistake(
        "pretrain --config=tinny.py --workdir={w}",
        "pretrain: --config=tinny.py: no such file; the recipes are in configs/",
    ),
    "no such recipe, overridden": Mistake(
        "pretrain --config=tinny.py --workdir={w} --config.pretrain.steps=5",
        "pretrain: --config: [Errno 2] No such file or directory: 'tinny.py'",
    ),
    "no config": Mistake(
        "pretrain --workdir={w}",
        "pretrain: --config is missing; name a recipe, for example --config=configs/small.py",
    ),
    "no workdir": Mistake(
        "finetune --config=tiny.py",
        "finetune: --workdir is missing; name a folder, for example --workdir=runs/small",
    ),
    "keys that clash": Mistake(
        "pretrain --config=sizes.py --workdir={w}",
        "pretrain: config unnamed: model.heads 4 is not a multiple of model.kv_heads 3",
    ),
    "no range of steps": Mistake(
        f"pretrain {USUAL} --profile=15:10",
        "pretrain: --profile=15:10 is not FIRST:LAST, the numbers of two steps, for example 10:15",
    ),
    "stray word": Mistake(
        f"pretrain {USUAL} steps=5",
        "pretrain: unexpected 'steps=5'; options are written --name=value",
    ),
}
# These load JAX first.
LATE = {
    "workdir of another config": Mistake(
        "pretrain --config=tiny.py --workdir={other_config} --config.pretrain.seed=7",
        "pretrain: {other_config}/pretrain belongs to a run of another config (pretrain.seed: 0 -> "
        "7); choose another --workdir, or delete the folder",
    ),
    "batch that does not divide": Mistake(
        f"pretrain {USUAL} --devices=8",
        "pretrain: pretrain.batch_rows = 4 does not divide over the 8 parts of the mesh axes data "
        "x fsdp; make it a multiple of 8, or change --config.mesh.*",
    ),
    "no pre-training yet": Mistake(
        f"finetune {USUAL}",
        "finetune: {w}/pretrain/checkpoints: no whole checkpoint (there is none); run pretrain "
        "first, or name another",
    ),
    "checkpoint of another tokenizer": Mistake(
        "finetune --config=tiny.py --workdir={other_tokenizer}",
        "finetune: {other_tokenizer}/pretrain/checkpoints/3 was pre-trained with tokenizer {{'k': "
        "4, 'name': 'kmer'}}, the config says {{'name': 'nucleotide'}}; give --config.tokenizer.* "
        "the checkpoint's values, or pre-train again",
    ),
}


def write_recipe(path: pathlib.Path, lines: str) -> None:
    body = "\n".join(f"    {line.strip()}" for line in lines.strip().splitlines())
    path.write_text(
        "from dnallm_jax.config import default_config\n\ndef get_config():\n"
        f"    c = default_config()\n{body}\n    return c\n"
    )


def write_checkpoint(folder: pathlib.Path, **manifest: Any) -> pathlib.Path:
    """A checkpoint of step 3 with hardly an array, of which only the manifest matters."""
    kept = Checkpoints(folder, keep=1, metric="x", identity={})
    kept.save(3, {"step": jnp.int32(3)}, manifest, {})
    kept.close()
    return folder / "3"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """`here`, with recipes; workdirs `w` with data and, beside data, what the others are named."""
    here = tmp_path_factory.mktemp("mistakes")
    for name, lines in RECIPES.items():
        write_recipe(here / name, lines)
    rng = np.random.default_rng(0)
    letters = np.frombuffer(b"ACGT", np.uint8)
    records = [
        f">r{n} label={n % 2} cluster=r{n}\n{rng.choice(letters, 200).tobytes().decode()}\n"
        for n in range(12)
    ]
    (here / "records.fa").write_text("".join(records))
    sources = (str(here / "records.fa"),)
    places = {name: here / name for name in ("w", "other_config", "other_tokenizer")}
    corpus = build_corpus(CorpusOptions(sources, row_length=64), str(places["w"] / "data/corpus"))
    contigs = ContigsOptions(sources, validation_fraction=0.3)
    build_contigs(contigs, str(places["w"] / "data/contigs"))
    for name in ("other_config", "other_tokenizer"):
        places[name].mkdir()
        (places[name] / "data").symlink_to(places["w"] / "data")
    with claim(places["other_config"] / "pretrain", identity_of(TINY, corpus)):
        pass
    write_checkpoint(
        places["other_tokenizer"] / "pretrain" / "checkpoints",
        kind="pretrain",
        tokenizer={"name": "kmer", "k": 4},
        model=vars(gpt_spec(MODEL, 262)),
    )
    return {**places, "here": here}


def identity_of(config: Config, corpus: Corpus) -> dict[str, Any]:
    sections = ("model", "pretrain", "execution")
    return {s: to_dict(getattr(config, s)) for s in sections} | {"data": corpus.fingerprint}


def run(words: str, here: pathlib.Path) -> subprocess.CompletedProcess[str]:
    kept = {
        k: v for k, v in os.environ.items() if k not in ("PYTHONDONTWRITEBYTECODE", "XLA_FLAGS")
    }
    return subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *words.split()],
        capture_output=True,
        text=True,
        cwd=here,
        env={**kept, "JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(here / "cache")},
        timeout=250,
        check=False,
    )


@pytest.fixture(scope="module")
def ended(places: dict[str, pathlib.Path]) -> dict[str, subprocess.CompletedProcess[str]]:
    """How every command ended, two at a time."""
    here, mistakes = places["here"], SOON | LATE
    with ThreadPoolExecutor(2) as pool:
        lines = [mistake.words.format(**places) for mistake in mistakes.values()]
        return dict(zip(mistakes, pool.map(lambda line: run(line, here), lines), strict=True))


@pytest.mark.parametrize("name", [*SOON, *LATE])
def test_a_mistake_is_one_line(
    name: str,
    ended: dict[str, subprocess.CompletedProcess[str]],
    places: dict[str, pathlib.Path],
) -> None:
    told = (SOON | LATE)[name].told.format(**places) if name in LATE else SOON[name].told
    assert ended[name].stderr == f"dnallm_jax {told}\n"
    assert ended[name].returncode == 2
    assert ended[name].stdout == ""


def test_nothing_is_begun_by_a_mistake(
    ended: dict[str, Any], places: dict[str, pathlib.Path]
) -> None:
    assert [path.name for path in places["w"].iterdir()] == ["data"]


@pytest.mark.parametrize(
    ("platform", "devices"), [("gpu", "nvidia[0-9]*"), ("tpu", "accel*"), ("tpu", "vfio/[0-9]*")]
)
def test_a_platform_that_is_not_there_is_never_another(
    platform: str, devices: str, places: dict[str, pathlib.Path]
) -> None:
    if list(pathlib.Path("/dev").glob(devices)):
        pytest.skip("it may be there")
    done = run(f"doctor --platform={platform}", places["here"])
    *_, last = done.stderr.splitlines()  # libtpu has words of its own before it
    assert last.startswith(f"dnallm_jax doctor: --platform={platform}: no such device here (")
    assert last.endswith("or check that no other process holds the device")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_planted_a_fault_of_the_recipe_itself_is_not_hidden(
    places: dict[str, pathlib.Path],
) -> None:
    """A recipe is a program: where it breaks, its author needs the traceback."""
    broken = run("pretrain --config=broken.py --workdir=w", places["here"])
    assert broken.returncode == 1
    assert "broken.py" in broken.stderr
    assert broken.stderr.endswith("KeyError: 'steps'\n")


# The same refusals, further down


def pretrain(config: Config, places: dict[str, pathlib.Path], folder: pathlib.Path) -> str:
    """What pretrain refuses with."""
    corpus = open_corpus(str(places["w"] / "data/corpus"))
    with pytest.raises(UserError) as raised:
        pretraining.pretrain(config, corpus, folder, flops_per_token=1.0, peak=Peak(1.0, ""))
    return str(raised.value)


EIGHT_ROWS = dataclasses.replace(TINY, pretrain=dataclasses.replace(TINY.pretrain, batch_rows=8))


def test_a_corpus_of_another_tokenizer(
    places: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    config = dataclasses.replace(EIGHT_ROWS, tokenizer=Tokenizer("kmer", 3))
    assert pretrain(config, places, tmp_path / "p") == (
        f"{places['w'] / 'data/corpus'} was tokenised by {{'name': 'nucleotide'}}, the config asks "
        "for {'name': 'kmer', 'k': 3}; run prepare with this config, or set --config.tokenizer.*"
    )
    assert not (tmp_path / "p").exists()


def test_a_mesh_or_a_backbone_that_does_not_fit_is_told_before_any_member_is_trained(
    places: dict[str, pathlib.Path],
) -> None:
    eight = dataclasses.replace(TINY, mesh=Mesh(fsdp=1, tensor=8))
    random = dataclasses.replace(
        eight, finetune=dataclasses.replace(TINY.finetune, backbone="random")
    )
    for config, workdir, told in (
        (random, "w", r"model\.heads = 2 does not divide over the 8 parts"),
        (TINY, "other_tokenizer", r"was pre-trained with tokenizer .*'kmer'"),
    ):
        with pytest.raises(UserError, match=told):
            training.open_workdir(config, places[workdir])


def test_what_does_not_divide_over_the_mesh(
    places: dict[str, pathlib.Path], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = dataclasses.replace(EIGHT_ROWS, mesh=Mesh(fsdp=1, tensor=8))
    told = pretrain(wide, places, tmp_path / "p")
    assert told.startswith("model.heads = 2 does not divide over the 8 parts of the mesh axes tens")
    heads = dataclasses.replace(MODEL, heads=8)
    long = dataclasses.replace(EIGHT_ROWS, model=heads, mesh=Mesh(fsdp=1, sequence=8))
    monkeypatch.setattr(Corpus, "row_length", 63)
    told = pretrain(long, places, tmp_path / "p")
    assert told.startswith("corpus.row_length = 63 does not divide over the 8 parts of the mesh ax")
    assert not (tmp_path / "p").exists()


def test_a_second_process_in_the_folder(
    places: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    with sole_writer(str(tmp_path / "p"), "run"):
        assert "another run is writing here" in pretrain(EIGHT_ROWS, places, tmp_path / "p")


def test_a_backbone_that_is_none(tmp_path: pathlib.Path) -> None:
    spec = gpt_spec(MODEL, 6)
    folder = tmp_path / "finetune" / "checkpoints"
    write_checkpoint(folder, kind="finetune", model=vars(spec))
    with pytest.raises(UserError) as raised:
        check_backbone(newest_whole(folder), spec, {"name": "nucleotide"})
    assert str(raised.value) == (
        f"{folder / '3'} is a checkpoint of finetune; --config.finetune.backbone names a folder "
        "that pretrain wrote"
    )
    other = dataclasses.replace(spec, width=64)
    folder = tmp_path / "pretrain" / "checkpoints"
    manifest = {"kind": "pretrain", "tokenizer": {"name": "nucleotide"}}
    write_checkpoint(folder, **manifest, model=json.loads(json.dumps(vars(other))))
    with pytest.raises(UserError, match=r"pre-trained with model .*'width': 64.*--config.model.\*"):
        check_backbone(newest_whole(folder), spec, {"name": "nucleotide"})
