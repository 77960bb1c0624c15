"""Does launch/ call the cloud as it says, and does its loop outlive preemption?

The scripts run in a small repository of their own, against stand_in.py in place of gcloud and
program.py in place of main.py. Nothing here reaches a network.
"""

import ast
import os
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LAUNCH = ROOT / "launch"
WHERE = ["--name=virus", "--project=lab", "--zone=us-east5-b"]
SLICE = ["--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite", "--spot"]
AT_ONCE = ["--poll=0", "--backoff=0"]
HARD = """--config.name=it's "two" words; $HOME `x` * & \\"""  # a shell must leave it as it is

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("bash", "git", "flock", "setsid", "tar"))),
    reason="a worker needs bash, git, flock, setsid and tar",
)


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@dataclass(frozen=True)
class Place:
    """A repository with launch/, and the cloud that its gcloud reaches."""

    repository: Path
    cloud: Path
    environment: dict[str, str]
    commit: str

    def plan(self, *fates: str, seed: int = 0) -> None:
        """The next slices' fates; the last one is also that of every slice after it."""
        chance = random.Random(seed)
        plan = [f"{fate} {chance.randrange(3)} {chance.randrange(1, 3)}\n" for fate in fates]
        values = {"plan": "".join(plan), "state": "GONE", "created": "0", "fate": "none"}
        for name, value in values.items():
            (self.cloud / name).write_text(value)

    def launch(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["bash", "launch/tpu.sh", *arguments],
            cwd=self.repository,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess:
        return self.launch("run", *WHERE, *SLICE, *AT_ONCE, *arguments, "--", *self.command)

    @property
    def command(self) -> list[str]:
        workdir = f"--workdir={self.cloud / 'bucket'}"
        return ["pretrain", "--config=configs/genomes.py", workdir, HARD]

    def calls(self, verb: str = "") -> list[list[str]]:
        path = self.cloud / "calls"
        calls = list(map(ast.literal_eval, path.read_text().splitlines())) if path.exists() else []
        return [call for call in calls if not verb or verb in call]

    def state(self) -> str:
        return (self.cloud / "state").read_text().strip()

    def lines(self, name: str) -> list[str]:
        return (self.cloud / "bucket" / name).read_text().splitlines()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    repository, cloud, tools = (tmp_path / name for name in ("repository", "cloud", "bin"))
    (cloud / "bucket").mkdir(parents=True)
    shutil.copytree(LAUNCH, repository / "launch")
    shutil.copy(HERE / "program.py", repository / "main.py")
    for name in ("dnallm_jax/commands/pretrain.py", "configs/genomes.py"):
        (repository / name).parent.mkdir(parents=True)
        (repository / name).write_text("")
    for name in ("build", "tpu", "cloud"):
        (repository / f"requirements-{name}.txt").write_text("# nothing\n")
    # -I -S: without the user's and the site's packages, Python starts in a fraction of the time.
    python = f"'{sys.executable}' -I -S"
    venv = f'#!/bin/sh\n[ "$1" = -m ] || exec {python} "$@"\n'
    made = "$VENV/bin/python"
    executable(
        repository / ".ci/make-venv",
        f"mkdir -p $VENV/bin\ncat >{made} <<'END'\n{venv}END\nchmod +x {made}\n",
    )
    executable(tools / "gcloud", f"#!/bin/sh\nexec {python} '{HERE / 'stand_in.py'}' \"$@\"\n")
    bucket = cloud / "bucket"
    executable(
        tools / "findmnt",
        f'#!/bin/sh\ncase "$*" in *{bucket}*) echo {bucket} ;; *) echo / ;; esac\n',
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("DRY_RUN", "GIT_DIR")}
    environment |= {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "CLOUD": str(cloud)}
    environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    place = Place(repository, cloud, environment, commit(repository, environment))
    place.plan("well")
    return place


def commit(repository: Path, environment: dict[str, str]) -> str:
    def git(*arguments: str) -> str:
        author = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
        return subprocess.check_output(
            ["git", *author, *arguments], cwd=repository, env=environment, text=True
        ).strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "all")
    return git("rev-parse", "HEAD")


# What is called


def test_a_dry_run_prints_every_command_and_runs_none(place: Place) -> None:
    """The golden text is the documentation of what `run` does when nothing is preempted.

    A change of it is a change of what is paid for: read it, and check the flags with
    `gcloud meta lint-gcloud-commands`.
    """
    command = ["pretrain", "--config=configs/genomes.py", "--workdir=bucket/genomes", "--x=it's so"]
    results = ["--fetch-from=gs://lab-runs/genomes", "--fetch-to=runs/one"]
    done = place.launch(
        "run",
        *WHERE,
        *SLICE,
        "--mount=gcsfuse lab-runs bucket",
        *results,
        "--",
        *command,
        DRY_RUN="1",
    )
    tpus = "gcloud compute tpus queued-resources"
    at = "--project=lab --zone=us-east5-b --quiet"
    look = f"{tpus} describe virus '--format=value(state.state)' {at}"
    program = (
        r"pretrain --config=configs/genomes.py --workdir=bucket/genomes "
        r"'\''--x=it'\''\'\'''\''s so'\'' --platform=tpu"
    )
    worker = "bash dnallm_jax/launch/worker.sh"
    unpack = "mkdir -p dnallm_jax && tar -xzf dnallm_jax.tar.gz -C dnallm_jax"
    expected = f"""\
{look}
{tpus} create virus --node-id=virus --accelerator-type=v5litepod-16 \
--runtime-version=v2-alpha-tpuv5-lite --spot --async {at}
{look}
mkdir -p build/launch
git archive --format=tar.gz --output=build/launch/virus.tar.gz {place.commit}
{tpus} scp build/launch/virus.tar.gz virus:dnallm_jax.tar.gz --worker=all --node=all {at}
{tpus} ssh virus --worker=all --node=all \
'--command={unpack} && {worker} setup '\\''gcsfuse lab-runs bucket'\\''' {at}
{tpus} ssh virus --worker=all --node=all '--command={worker} start durable {program}' {at}
{look}
{tpus} ssh virus --worker=0 --node=0 '--command={worker} status {program}' {at}
mkdir -p runs/one
gcloud storage rsync gs://lab-runs/genomes runs/one --recursive --project=lab --quiet
{look}
{tpus} delete virus --force {at}
{look}
"""
    assert done.stdout == expected
    assert done.returncode == 0
    assert not place.calls()
    assert not (place.repository / "build").exists()


def test_a_printed_command_is_the_command_that_runs(place: Place) -> None:
    """Read by a shell, each line of a dry run has the words that gcloud gets without it."""
    arguments = ["start", *WHERE, "--", *place.command]
    printed = place.launch(*arguments, "--platform=cpu", DRY_RUN="1").stdout
    place.launch(*arguments, "--platform=cpu")
    words = subprocess.check_output(["bash", "-c", f"printf '%s\\0' {printed}"], text=True)
    assert words.split("\0")[1:-1] == place.calls()[0]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["create", *SLICE[:2], "--node-count=2", "--create-flag=--network=lab net"],
            "create virus --node-count=2 --node-prefix=virus --accelerator-type=v5litepod-16 "
            "--runtime-version=v2-alpha-tpuv5-lite '--network=lab net' --async",
        ),
        (
            ["logs", "--connect-flag=--internal-ip"],
            "ssh virus --worker=0 --node=0 '--command=bash dnallm_jax/launch/worker.sh log' "
            "--internal-ip",
        ),
        (
            ["fetch", "--fetch-from=runs/genomes"],
            "scp virus:dnallm_jax/runs/genomes runs/virus --recurse",
        ),
        (["fetch", "--fetch-from=/disk/run 1"], "scp 'virus:/disk/run 1' runs/virus --recurse"),
    ],
    ids=["multislice", "logs", "fetch", "fetch-elsewhere"],
)
def test_steps(place: Place, arguments: list[str], line: str) -> None:
    done = place.launch(*arguments, *WHERE, "--dry-run")
    at = "--project=lab --zone=us-east5-b --quiet"
    assert f"gcloud compute tpus queued-resources {line} {at}" in done.stdout.splitlines(), done


def test_settings_from_a_file(place: Place) -> None:
    """A setting is written as the flag is, without quotes; what stands later wins."""
    file = place.repository / "tpu.env"
    file.write_text("# ours\nname=other\nproject=lab\r\nzone=us-east5-b\nmount=a 'b' c\nspot=true")
    done = place.launch("copy", "--env=tpu.env", "--name=virus", "--dry-run")
    assert done.returncode == 0, done
    assert "virus:dnallm_jax.tar.gz" in done.stdout
    assert r"'\''a '\''\'\'''\''b'\''\'\'''\'' c'\''" in done.stdout


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["rnu"], "there is no step 'rnu'"),
        (["run", "--nmae=virus"], "--nmae: there is no setting 'nmae'"),
        (["run", "--name=virus", "--zone=z"], "--project is not set: the Google Cloud project"),
        (["run", *WHERE[1:]], "--name is not set"),
        (["run", *WHERE, "--name=A_1"], "--name=A_1: use small letters"),
        (["run", *WHERE, SLICE[0]], "--runtime-version is not set"),
        (["run", *WHERE, *SLICE], "there is no command"),
        (["run", *WHERE, *SLICE, "--", "pretran"], "'pretran' is no command of main.py"),
        (
            ["run", *WHERE, *SLICE, "--", "pretrain", "--config=configs/new.py"],
            "--config=configs/new.py is not in the commit HEAD",
        ),
        (
            ["run", *WHERE, *SLICE, "--", "pretrain", "--workdir=s3://b/run"],
            "--workdir=s3://b/run is neither a folder nor gs://BUCKET/PATH",
        ),
        (["run", *WHERE, *SLICE, "pretrain"], "unexpected 'pretrain'"),
        (["run", *WHERE, *SLICE, "--node-count=two"], "--node-count=two is not a whole number"),
        (["run", *WHERE, *SLICE, "--spot=maybe"], "--spot=maybe is neither true nor false"),
        (["delete", "--env=nowhere.env"], "--env=nowhere.env: there is no such file"),
        (["delete", "--env=configs/bad.env"], "--env=configs/bad.env: there is no setting 'zon'"),
        (["fetch", *WHERE], "--fetch-from is not set"),
    ],
    ids=lambda value: "" if isinstance(value, list) else value.split(":")[0][:30],
)
def test_a_mistake_is_one_sentence(place: Place, arguments: list[str], sentence: str) -> None:
    (place.repository / "configs/bad.env").write_text("project=lab\nzon=z\n")
    done = place.launch(*arguments)
    assert done.returncode == 2, done
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith(f"launch/tpu.sh: {sentence}")
    assert not done.stdout
    assert not place.calls()


def test_a_workdir_on_the_boot_disk_is_refused(place: Place) -> None:
    """A preemption deletes it; found out on the worker, before the command runs for a day."""
    command = ["pretrain", "--config=configs/genomes.py", "--workdir=runs/genomes"]
    done = place.launch("run", *WHERE, *SLICE, *AT_ONCE, "--", *command)
    assert done.returncode == 2, done
    assert "--workdir=runs/genomes is on the boot disk" in done.stderr
    assert place.state() == "ACTIVE"
    assert len(place.calls("create")) == 1


def test_a_workdir_in_a_bucket_outlives_the_boot_disk(place: Place) -> None:
    """Nothing is mounted, and nothing refused: the worker starts the command."""
    executable(place.repository / ".venv/bin/python", '#!/bin/sh\necho "$@"\n')
    for workdir, code in (("gs://lab/run", 0), ("runs/one", 2)):
        line = ["bash", "launch/worker.sh", "start", "durable", "pretrain", f"--workdir={workdir}"]
        done = subprocess.run(line, cwd=place.repository, env=place.environment, check=False)
        assert done.returncode == code, workdir
        subprocess.run(["flock", "run.lock", "true"], cwd=place.repository, check=True)
    log = (place.repository / "run.log").read_text()
    assert log == "main.py pretrain --workdir=gs://lab/run\n"


# The loop

LOSSES = ["stockout", "saved", "suspended", "vanished", "crashed", "terminated", "silent"]


def check_outlived(place: Place, done: subprocess.CompletedProcess, losses: int) -> None:
    """The run ended well: each lost slice was replaced, by the same command, and none is left."""
    assert done.returncode == 0, done.stderr
    assert len(place.calls("create")) == losses + 1
    assert place.state() == "GONE"
    starts = list(map(ast.literal_eval, place.lines("starts")))
    assert {name for name, *_ in starts} == {"worker-0", "worker-1"}
    assert all(command == [*place.command, "--platform=tpu"] for _, *command in starts)
    steps = place.lines("steps")
    assert steps == [str(i) for i in range(len(steps))]
    assert f"after {losses} restarts" in done.stderr


@pytest.mark.parametrize("seed", [2, 4])  # together these meet all the losses
def test_the_loop_outlives_preemption(place: Place, seed: int) -> None:
    losses = random.Random(seed).sample(LOSSES, 4)
    place.plan(*losses, "well", seed=seed)
    done = place.run("--fetch-from=gs://lab-runs/genomes")
    check_outlived(place, done, len(losses))
    ran = len(losses) - ("stockout" in losses)
    assert len(place.lines("starts")) == 2 * (ran + 1)
    fetched = place.repository / "runs/virus/steps"
    assert fetched.read_text().splitlines() == place.lines("steps")


@pytest.mark.parametrize(
    ("script", "right", "wrong"),
    [
        ("loop.sh", '        remove\n        [ "$restarts"', '        [ "$restarts"'),
        ("slice.sh", "'${word//$apostrophe/$escaped}'", "$word"),
        ("worker.sh", "echo $? >run.exit.part", "echo 0 >run.exit.part"),
    ],
    ids=["keeps-a-lost-slice", "does-not-quote", "takes-a-preemption-for-the-end"],
)
def test_planted_faults_are_found(place: Place, script: str, right: str, wrong: str) -> None:
    path = place.repository / "launch" / script
    assert path.read_text().count(right) == 1
    path.write_text(path.read_text().replace(right, wrong))
    commit(place.repository, place.environment)
    place.plan("saved", "well")
    done = place.run("--max-restarts=1")
    with pytest.raises((AssertionError, FileNotFoundError)):
        check_outlived(place, done, 1)


@pytest.mark.parametrize("delete", [False, True])
def test_a_failure_of_the_command_ends_the_loop(place: Place, delete: bool) -> None:
    place.plan("failed-1")
    done = place.run(*["--delete-on-failure"] * delete)
    assert done.returncode == 1, done.stderr
    assert "the command failed with exit code 1" in done.stderr
    assert len(place.calls("create")) == 1
    assert place.state() == ("GONE" if delete else "ACTIVE")


def test_too_many_preemptions_end_with_75_and_leave_nothing_that_costs(place: Place) -> None:
    place.plan("stockout")
    done = place.run("--max-restarts=2")
    assert done.returncode == 75, done.stderr
    assert len(place.calls("create")) == 3
    assert place.state() == "GONE"


def test_a_request_that_is_refused_again_and_again_ends_the_loop(place: Place) -> None:
    place.plan("refused")
    done = place.run()
    assert done.returncode == 1, done.stderr
    assert "RESOURCE_EXHAUSTED" in done.stderr
    assert len(place.calls("create")) == 5


def test_results_that_cannot_be_fetched_keep_the_slice(place: Place) -> None:
    (place.cloud / "no-storage").touch()
    done = place.run("--fetch-from=gs://lab-runs/genomes")
    assert done.returncode == 1, done.stderr
    assert "results were not fetched" in done.stderr
    assert place.state() == "ACTIVE"


def test_single_steps_and_a_loop_that_finds_its_command_running(place: Place) -> None:
    assert place.launch("create", *WHERE, *SLICE, *AT_ONCE).returncode == 0
    assert place.launch("copy", *WHERE).returncode == 0
    assert place.launch("start", *WHERE, "--", *place.command).returncode == 0
    twice = place.launch("start", *WHERE, "--", *place.command)
    assert twice.returncode == 2
    assert "a command is running here already: pretrain" in twice.stderr
    other = place.launch("run", *WHERE, *SLICE, *AT_ONCE, "--", *place.command[:3])
    assert other.returncode == 2
    assert "virus is running another command: pretrain" in other.stderr
    (place.cloud / "probes").write_text("2")
    done = place.run()
    assert "the command is running there already" in done.stderr
    check_outlived(place, done, 0)
