"""Which rules does the tree keep, and where does it break them?

    main -> commands -> {training, evaluation, scoring, planning, interop}
         -> {model, parallel, config} -> data_pipeline

Every rule is a function from a tree to a list of faults, "path:line: what is wrong".
tests/test_doors.py runs them on this repository and on houses with a planted fault.
"""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

LEVEL = {
    "commands": 3,
    **dict.fromkeys(("training", "evaluation", "scoring", "planning", "interop"), 2),
    **dict.fromkeys(("model", "parallel", "config"), 1),
    "data_pipeline": 0,
}
# Doors to a neighbour: (from this room, to what) -> why.
SIDE_DOORS = {
    ("config", "dnallm_jax.model"): "a config ends as GPTSpec, the model's description of itself",
    ("parallel", "dnallm_jax.model"): "the mesh must divide the shapes that GPTSpec describes",
    ("training", "dnallm_jax.planning.flops"): "one formula of MFU, wherever MFU is printed",
    ("scoring", "dnallm_jax.training.checkpoints"): "a bundle is kept as checkpoints are",
    ("scoring", "dnallm_jax.training.manifest"): "and explains and vouches for itself as they do",
    ("scoring", "dnallm_jax.evaluation"): "a score is a calibrated probability with a threshold",
}
# Files above 400 lines that are one question all the same: path -> why it is not two files.
LONG_FILES: dict[str, str] = {}

NOWHERE = ("tensorflow", "torch", "transformers", "keras", "tf_keras")
# The one exception: it measures another program beside this one, in an environment of its own.
RIVAL_FILE, RIVALS = "benchmarks/bench_against_transformers.py", ("torch", "transformers")
ORBAX_FILE = "dnallm_jax/training/checkpoints.py"
TFDS_FILES = tuple(
    f"data_pipeline/{name}.py" for name in ("corpus", "writing", "contigs", "workers")
)
FILE_IO = (
    *("bz2", "csv", "etils", "fileinput", "glob", "gzip", "io", "lzma", "mmap", "os", "pathlib"),
    *("pickle", "shelve", "shutil", "socket", "sqlite3", "subprocess", "tarfile", "tempfile"),
    *("urllib", "zipfile", "zstandard", "pyarrow", "tensorstore", "array_record"),
)
FILE_CALLS = {"open", "memmap", "load", "save", "savez", "loadtxt", "savetxt", "fromfile", "tofile"}
FORBIDDEN = {
    "data_pipeline": ("jax", "jaxlib", "flax", "optax", "orbax"),
    "model": ("ml_collections", "absl", "orbax", "tensorflow_datasets", "grain", *FILE_IO),
}
# What the model may know of the data: how letters are numbered, and nothing that opens a file.
MODEL_MAY_READ = ("data_pipeline.errors", "data_pipeline.tokenizers")
LIGHT = ("absl", "ml_collections.config_flags", "data_pipeline.errors")
LIGHT_ROOMS = ("dnallm_jax.commands", "dnallm_jax.config", "configs")


MADE_HERE = {".git", ".venv", "__pycache__", "build", "dist", "runs"} | {
    ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis",
}  # fmt: skip


@dataclass(frozen=True)
class Import:
    """One imported name: `from a.b import c` in a function is target "a.b.c", lazy."""

    path: str
    line: int
    target: str
    lazy: bool

    def fault(self, text: str) -> str:
        return f"{self.path}:{self.line}: {text} ({self.target})"


def within(target: str, prefixes: tuple[str, ...]) -> bool:
    """Whether a dotted name is one of the prefixes or lies below one."""
    return any(target == p or target.startswith(p + ".") for p in prefixes)


def files(tree: Path) -> list[str]:
    """The tree's files that git tracks or would track; without git, all that nobody made."""
    if not (tree / ".git").exists() or not shutil.which("git"):
        found = (p.relative_to(tree) for p in tree.rglob("*") if p.is_file())
        return sorted(p.as_posix() for p in found if not MADE_HERE & set(p.parts))
    command = ["git", "-c", f"safe.directory={tree}", "-C", str(tree), "ls-files", "-z"]
    command += ["--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return sorted(f for f in set(listed.split("\0")) - {""} if (tree / f).is_file())


def parsed(tree: Path) -> Iterator[tuple[str, ast.Module]]:
    for path in files(tree):
        if path.endswith(".py"):
            yield path, ast.parse((tree / path).read_bytes(), path)


def room(dotted: str) -> str:
    """Of dnallm_jax.training.loop: training; of data_pipeline.reading: data_pipeline."""
    top, _, rest = dotted.partition(".")
    return rest.partition(".")[0] if top == "dnallm_jax" else top


def module_of(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imports_of(path: str, module: ast.Module) -> Iterator[Import]:
    package = (
        module_of(path) if path.endswith("__init__.py") else module_of(path).rpartition(".")[0]
    )

    def visit(node: ast.AST, lazy: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(path, node.lineno, alias.name, lazy)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(parts if node.level else []), *filter(None, [node.module])])
            for alias in node.names:
                yield Import(path, node.lineno, f"{base}.{alias.name}", lazy)
        elif isinstance(node, ast.Call) and name_called(node) in ("import_module", "__import__"):
            yield Import(path, node.lineno, leading_text(node.args[0]), lazy)
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            inside = True  # never imported, only read by the type checker
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    yield from visit(module, False)


def name_called(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def leading_text(node: ast.expr) -> str:
    """The constant beginning of a string expression; "?" when its first part is a variable."""
    if isinstance(node, ast.JoinedStr) and node.values:
        node = node.values[0]
    if isinstance(node, ast.BinOp):
        return leading_text(node.left)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value.rstrip(".")
    return "?"


def all_imports(tree: Path) -> Iterator[Import]:
    for path, module in parsed(tree):
        yield from imports_of(path, module)


# Rules about imports


def doors(tree: Path) -> list[str]:
    """Imports between rooms go down; a room knows no neighbour but through SIDE_DOORS."""
    faults = []
    for i in all_imports(tree):
        here, there = room(module_of(i.path)), room(i.target)
        inside = i.path.startswith(("dnallm_jax/", "data_pipeline/"))
        of_house = i.target.split(".")[0] in ("dnallm_jax", "data_pipeline")
        if not inside or here == there or there.startswith("__") or i.target == "dnallm_jax":
            continue
        if i.target == "?":
            faults.append(i.fault("the name of an imported module must be readable here"))
        elif there in ("main", "tests", "benchmarks") or (
            there == "configs" and here != "commands"
        ):
            faults.append(i.fault(f"the rooms do not know {there}"))
        elif of_house and there not in LEVEL:
            faults.append(i.fault("not a room of the house"))
        elif of_house and here == "":
            if not i.lazy or there == "commands":
                faults.append(i.fault("the package itself opens rooms below commands, lazily"))
        elif any(here == h and within(i.target, (t,)) for h, t in SIDE_DOORS):
            continue
        elif of_house and LEVEL.get(here, -1) <= LEVEL[there]:
            faults.append(i.fault(f"{here} may not import {there}: doors open downwards only"))
    return faults


def room_rules(tree: Path) -> list[str]:
    """data_pipeline knows no JAX; model knows no configuration, no storage and no file."""
    faults = []
    for path, module in parsed(tree):
        here = room(module_of(path))
        for i in imports_of(path, module):
            if path.startswith(("dnallm_jax/", "data_pipeline/")) and within(
                i.target, FORBIDDEN.get(here, ())
            ):
                faults.append(i.fault(f"{here} does not import this"))
            if here == "model" and room(i.target) == "data_pipeline":
                if not within(i.target, MODEL_MAY_READ):
                    faults.append(i.fault("model reads no data"))
            if here == "data_pipeline" and within(i.target, ("tensorflow_datasets", "grain")):
                if path not in TFDS_FILES:
                    faults.append(i.fault(f"only {', '.join(TFDS_FILES)} import this"))
        if path.startswith("dnallm_jax/model/"):
            faults += [
                f"{path}:{node.lineno}: model opens no file ({name_called(node)})"
                for node in ast.walk(module)
                if isinstance(node, ast.Call) and name_called(node) in FILE_CALLS
            ]
    return faults


def libraries(tree: Path) -> list[str]:
    """TensorFlow and PyTorch nowhere; Orbax in one file (tests may look over its shoulder)."""
    faults = []
    for i in all_imports(tree):
        if within(i.target, RIVALS) and i.path == RIVAL_FILE and i.lazy:
            continue
        if within(i.target, NOWHERE):
            faults.append(i.fault("not a library of this project"))
        if within(i.target, ("orbax",)) and not i.path.startswith("tests/"):
            if i.path != ORBAX_FILE:
                faults.append(i.fault(f"only {ORBAX_FILE} names Orbax"))
    return faults


def light_top(tree: Path) -> list[str]:
    """main.py, commands/ and configs/ load nothing heavy, so that --help answers in a second."""
    faults = []
    for i in all_imports(tree):
        if i.target.split(".")[0] in sys.stdlib_module_names:
            continue
        if i.path == "main.py":
            of_command = within(i.target, ("dnallm_jax.commands",))
            is_module = (tree / f"{i.target.replace('.', '/')}.py").exists()
            if of_command and is_module and not i.lazy:
                faults.append(i.fault("main.py imports a command only inside a function"))
            if not of_command and not within(i.target, LIGHT):
                faults.append(i.fault(f"main.py imports only {', '.join(LIGHT)} and commands"))
        if i.path.startswith("dnallm_jax/commands/") and not i.lazy:
            if not within(i.target, (*LIGHT, "ml_collections", *LIGHT_ROOMS)):
                faults.append(i.fault("a command imports what is heavy inside its functions"))
        if i.path.startswith("configs/"):
            if not within(i.target, ("ml_collections", "configs", "dnallm_jax.config")):
                faults.append(i.fault("a config imports ml_collections and nothing heavy"))
    return faults


# No generation: this project detects sequences, and writes none.

GENERATING = {"sample", "samples", "sampler", "sampling"} | {
    "generate", "generates", "generated", "generator", "generation", "generative",
}  # fmt: skip
DRAWING = {"categorical", "gumbel", "multinomial"}


def words(identifier: str) -> set[str]:
    return {w.lower() for w in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", identifier)}


def no_generation(tree: Path) -> list[str]:
    """No command, function or class of dnallm_jax is named for it, and none draws a token.

    Drawing tokens needs a draw from a distribution over the vocabulary, so the calls that make one
    are forbidden where the model is at hand. evaluation sees scores only: its bootstrap may draw.
    data_pipeline is free (a simulator of genomes, samples of records): it cannot see the model.
    """
    faults = []
    for path, module in parsed(tree):
        if not (path == "main.py" or path.startswith("dnallm_jax/")):
            continue
        if GENERATING & words(Path(path).stem):
            faults.append(f"{path}:1: a file named for generation")
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                if GENERATING & words(node.name):
                    faults.append(f"{path}:{node.lineno}: named for generation ({node.name})")
            if isinstance(node, ast.Call) and name_called(node) in DRAWING:
                if not path.startswith("dnallm_jax/evaluation/"):
                    faults.append(f"{path}:{node.lineno}: draws ({name_called(node)})")
    return faults


# Rules about text

# Written in pieces so that this file passes its own rule.
HOSTS = ("pypi" + r"\.org", "python" + r"hosted\.org", "ana" + r"conda\.org", "npm" + r"js\.")
INDEX_OPTIONS = ("index" + "-url", "find" + "-links")
MACHINE_PATHS = r"(?<![\w./$})*~-])/(?:work|root|tmp|home/\w+|Users/\w+)(?![\w-])"
STRAY = re.compile("|".join((*HOSTS, *INDEX_OPTIONS, MACHINE_PATHS)))


def stray_names(tree: Path) -> list[str]:
    """No package registry and no path of somebody's machine in any text file."""
    faults = []
    for path in files(tree):
        data = (tree / path).read_bytes()
        if b"\0" in data or path == "LICENSE":
            continue
        for n, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
            if found := STRAY.search(line):
                faults.append(f"{path}:{n}: names {found.group()!r}")
    return faults


def docstrings(tree: Path) -> list[str]:
    """The first lines of every file say which question it answers."""
    return [f"{p}:1: no docstring" for p, m in parsed(tree) if not ast.get_docstring(m)]


def lengths(tree: Path) -> list[str]:
    """A file above 400 lines answers more than one question, or says in LONG_FILES why not."""
    counts = {p: len((tree / p).read_bytes().splitlines()) for p in files(tree)}
    return [
        f"{p}:{n}: {n} lines"
        for p, n in counts.items()
        if p.endswith(".py") and n > 400 and p not in LONG_FILES
    ]


RULES: tuple[Callable[[Path], list[str]], ...] = (
    doors, room_rules, libraries, light_top, no_generation, stray_names, docstrings, lengths,
)  # fmt: skip
