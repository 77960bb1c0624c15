"""Will a fresh machine get what was tested: do ranges, locks, packaging and make agree?"""

import ast
import os
import re
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.house import files

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PYTHONS = ("3.11", "3.12", "3.13")
# lock -> the extra of pyproject.toml it holds beside the dependencies
LOCKS = {
    "requirements.txt": "",
    "requirements-dev.txt": "dev",
    "requirements-tpu.txt": "tpu",
    "requirements-cuda.txt": "cuda",
    "requirements-bpe.txt": "bpe",
    "requirements-tune.txt": "tune",
    "requirements-cloud.txt": "cloud",
    "requirements-beam.txt": "beam",
}
LINE = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^ ;\\]+)(?: ; (?P<marker>[^\\]+?))?"
    r"(?P<hashes>(?: --hash=sha256:[0-9a-f]{64})+)"
)


@dataclass(frozen=True)
class Pin:
    name: str
    version: str
    marker: str

    def applies(self, python: str) -> bool:
        """Whether plain pip takes this line on 64-bit Linux under this Python."""
        environment = {"python_version": python, "python_full_version": f"{python}.5"}
        environment |= {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
        environment |= {"platform_machine": "x86_64", "implementation_name": "cpython"}
        return not self.marker or Marker(self.marker).evaluate(environment)


def pins(lock: str) -> set[Pin]:
    """The lock's pins; ValueError for a line that is not one exact version with its hashes."""
    found = set()
    for line in re.sub(r" *\\\n *", " ", lock).splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        match = LINE.fullmatch(line.strip())
        if not match:
            raise ValueError(f"not a hashed pin: {line[:80]}")
        found.add(Pin(canonicalize_name(match["name"]), match["version"], match["marker"] or ""))
    return found


def read(lock: str) -> set[Pin]:
    return pins((ROOT / lock).read_text())


def misfits(ranges: list[str], locked: set[Pin]) -> list[str]:
    """Where a loose range does not admit exactly one locked version, for each Python."""
    faults = []
    for wanted in map(Requirement, ranges):
        for python in PYTHONS:
            name = canonicalize_name(wanted.name)
            here = [p for p in locked if p.name == name and p.applies(python)]
            if len(here) != 1 or Version(here[0].version) not in wanted.specifier:
                faults.append(f"{wanted} under Python {python}: locked {here}")
    return faults


GOOD_PIN = "numpy==2.4.6 ; python_full_version < '3.12' \\\n    --hash=sha256:" + "0" * 64


def test_a_hashed_pin_is_read() -> None:
    assert pins(GOOD_PIN) == {Pin("numpy", "2.4.6", "python_full_version < '3.12'")}


@pytest.mark.parametrize(
    "line",
    [
        "--extra-index" + "-url https://example.com/simple",
        "-i https://example.com/simple",
        "numpy==2.4.6",
        "numpy>=2 --hash=sha256:" + "0" * 64,
        "numpy==2.4.6 --hash=md5:" + "0" * 32,
        "numpy @ https://example.com/numpy.whl --hash=sha256:" + "0" * 64,
        "-e .",
    ],
)
def test_what_is_not_a_hashed_pin_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="not a hashed pin"):
        pins(f"{GOOD_PIN}\n{line}\n")


@pytest.mark.parametrize("lock", [*LOCKS, "requirements-build.txt"])
def test_locks_are_exact_hashed_and_name_no_index(lock: str) -> None:
    assert read(lock)
    assert "://" not in (ROOT / lock).read_text()


def test_a_range_that_excludes_the_locked_version_is_found() -> None:
    locked = {Pin("jax", "0.10.2", "python_full_version < '3.12'")}
    assert misfits(["jax>=0.10"], locked | {Pin("jax", "0.12", "python_version >= '3.12'")}) == []
    assert len(misfits(["jax>=0.11"], locked)) == 3  # too old under 3.11, absent under the others
    assert len(misfits(["flax"], locked)) == 3


@pytest.mark.parametrize(("lock", "extra"), LOCKS.items())
def test_ranges_agree_with_locks(lock: str, extra: str) -> None:
    project = PROJECT["project"]
    ranges = [*project["dependencies"], *(project["optional-dependencies"][extra] if extra else [])]
    assert misfits(ranges, read(lock)) == []


def test_build_tool_agrees_with_its_lock() -> None:
    locked = read("requirements-build.txt")
    assert misfits(PROJECT["build-system"]["requires"], locked) == []
    assert misfits(PROJECT["dependency-groups"]["build"], locked) == []


def test_every_lock_holds_what_requirements_txt_holds() -> None:
    """So that a .venv for tests, a TPU or a GPU runs the same versions as the plain one."""
    for lock in LOCKS:
        # Apache Beam caps protobuf, numpy and pyarrow: it has an environment of its own.
        if lock != "requirements-beam.txt":
            assert read("requirements.txt") <= read(lock), lock


def test_accelerator_locks_hold_the_accelerator() -> None:
    assert "libtpu" in {p.name for p in read("requirements-tpu.txt")}
    assert "jax-cuda13-plugin" in {p.name for p in read("requirements-cuda.txt")}


def test_no_lock_holds_tensorflow_or_torch() -> None:
    for lock in LOCKS:
        assert not {"tensorflow", "tensorflow-cpu", "torch"} & {p.name for p in read(lock)}, lock


def test_make_and_the_package_accept_the_same_pythons() -> None:
    accepted = SpecifierSet(PROJECT["project"]["requires-python"])
    assert [v for v in ("3.10", *PYTHONS, "3.14") if v in accepted] == list(PYTHONS)
    assert " | ".join(PYTHONS) in (ROOT / ".ci" / "make-venv").read_text()


def test_the_dnallm_command_is_main() -> None:
    module, _, function = PROJECT["project"]["scripts"]["dnallm"].partition(":")
    assert module in PROJECT["tool"]["setuptools"]["py-modules"]
    tree = ast.parse((ROOT / f"{module}.py").read_text())
    runs = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function]
    assert len(runs) == 1
    arguments = runs[0].args
    required = len(arguments.posonlyargs + arguments.args) - len(arguments.defaults)
    assert required == 0, "a console script calls its function without arguments"


def test_files_beside_the_code_are_installed_with_it() -> None:
    """A template that lies in a package but is not package data is missing after `pip install`."""
    patterns = PROJECT["tool"]["setuptools"]["package-data"]

    def installed(file: str) -> bool:
        package, _, within = file.partition("/")
        return any(fnmatch(within, pattern) for pattern in patterns.get(package, []))

    rooms = ("dnallm_jax/", "data_pipeline/", "configs/")
    beside = [f for f in files(ROOT) if f.startswith(rooms) and not f.endswith(".py")]
    assert "dnallm_jax/bundles/default/manifest.json" in beside
    assert [f for f in beside if not installed(f)] == []
    assert not installed("dnallm_jax/scoring/page.html")  # the planted fault


# make, in a copy of the set-up whose .venv is a pretence


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    for name in ("Makefile", "pyproject.toml", "requirements-build.txt", *LOCKS):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def make(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", *arguments]
    # What the make above this test run was given is not for the one below it.
    outer = {"MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "PYTHON", "ARGS", "JOBS"}
    environment = {k: v for k, v in os.environ.items() if k not in outer}
    return subprocess.run(
        command, cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )


def executable(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def installs(checkout: Path, target: str) -> list[str]:
    """The requirements files that `make target` would install, in order."""
    plan = make(checkout, "-n", target)
    assert plan.returncode == 0, plan.stderr
    return re.findall(r"-r (requirements\S*)", plan.stdout)


def test_make_alone_lists_the_targets(checkout: Path) -> None:
    listed = make(checkout).stdout
    for target in ("demo", "test", "lint", "lock", "clean"):
        assert f"make {target} " in listed


def test_make_installs_what_is_needed_and_once(checkout: Path) -> None:
    app = ["requirements-build.txt", "requirements.txt"]
    dev = ["requirements-build.txt", "requirements-dev.txt"]
    assert installs(checkout, "demo") == app
    assert installs(checkout, "test") == dev
    executable(checkout / ".venv" / "bin" / "python", "")
    for stamp in (".made", ".installed"):
        (checkout / ".venv" / stamp).touch()
    assert installs(checkout, "demo") == []
    assert installs(checkout, "test") == dev
    (checkout / ".venv" / ".installed").unlink()
    (checkout / ".venv" / ".installed-dev").touch()
    assert installs(checkout, "demo") == installs(checkout, "lint") == []
    newer = (checkout / ".venv" / ".installed-dev").stat().st_mtime + 10
    os.utime(checkout / "requirements-dev.txt", (newer, newer))
    assert installs(checkout, "demo") == installs(checkout, "test") == dev


def test_a_venv_whose_python_has_gone_is_made_again(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    for stamp in (".made", ".installed", ".installed-dev"):
        (checkout / ".venv" / stamp).touch()
    assert "make-venv" in make(checkout, "-n", "demo").stdout
    assert installs(checkout, "test") == ["requirements-build.txt", "requirements-dev.txt"]


@pytest.mark.parametrize("version", ["3.10", "3.14", "2.7"])
def test_a_python_that_does_not_fit_is_named(checkout: Path, version: str) -> None:
    python = executable(checkout / "bin" / "python", f"echo {version}")
    refused = make(checkout, "demo", f"PYTHON={python}")
    assert refused.returncode != 0
    assert f"{python} is not Python 3.11, 3.12 or 3.13 (its version: {version})" in refused.stderr
    assert not (checkout / ".venv").exists()


def test_no_python_at_all_is_said(checkout: Path) -> None:
    """A PATH with the tools of the shell, an old python3 and nothing else."""
    for tool in ("make", "sh", "sed", "mkdir", "touch", "test"):
        if found := shutil.which(tool):
            (checkout / "bin").mkdir(exist_ok=True)
            (checkout / "bin" / tool).symlink_to(found)
    executable(checkout / "bin" / "python3", "echo 3.9")
    refused = make(checkout, "demo", f"PATH={checkout / 'bin'}")
    assert refused.returncode != 0
    assert "No Python 3.11, 3.12 or 3.13 was found (python3 here: 3.9)" in refused.stderr


def test_missing_venv_module_is_said(checkout: Path) -> None:
    """Debian's python3 without python3-venv: it answers its version and cannot import ensurepip."""
    script = 'case "$2" in *ensurepip*) exit 1 ;; *) echo 3.12 ;; esac'
    python = executable(checkout / "bin" / "python", script)
    refused = make(checkout, "demo", f"PYTHON={python}")
    assert refused.returncode != 0
    assert "apt install python3-venv (or python3.12-venv)" in refused.stderr
