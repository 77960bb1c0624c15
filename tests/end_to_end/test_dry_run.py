"""Does `finetune --dry-run` say what it would train on, without JAX and without training?"""

import pathlib
import subprocess
import sys

from tests.dnallm_jax.bundles import write_contigs
from tests.end_to_end.conftest import ROOT

# A module that is None in sys.modules cannot be imported.
WITHOUT_JAX = "import sys; sys.modules['jax'] = None; import main; main.run(sys.argv)"
COMPOSITION = ["--config.composition.steps=5", "--config.composition.lengths=(100, 150)"]


def dry(workdir: pathlib.Path, environment: dict[str, str], *words: str) -> tuple[int, str, str]:
    line = [sys.executable, "-c", WITHOUT_JAX, "finetune", "--config=configs/demo.py"]
    ended = subprocess.run(
        [*line, f"--workdir={workdir}", "--config.finetune.lengths=(100, 200)", *words],
        **{"cwd": ROOT, "env": environment, "check": False, "timeout": 300},
        capture_output=True,
        text=True,
    )
    return ended.returncode, ended.stdout, ended.stderr


def test_counts_and_balance(tmp_path: pathlib.Path, environment: dict[str, str]) -> None:
    write_contigs(tmp_path)
    workdir = tmp_path / "run"
    (workdir / "data").mkdir(parents=True)
    (tmp_path / "contigs").rename(workdir / "data" / "contigs")
    code, said, errors = dry(workdir, environment, "--dry-run", *COMPOSITION)
    assert code == 0, errors
    assert errors == ""
    assert "train: 4 viral and 4 other records" in said
    assert "validation: 12 viral and 12 other records" in said
    assert "finetune: windows are drawn evenly over viruses by cluster, others by cluster" in said
    assert "composition: windows" in said
    assert [path.name for path in workdir.iterdir()] == ["data"]
    code, said, errors = dry(
        workdir, environment, "--dry_run", "--config.finetune.balance_key=familly/cluster"
    )
    assert code == 2
    assert errors.startswith("dnallm_jax finetune: balance key 'familly' is not one of group,")
    assert errors.count("\n") == 1
