"""Are the files of launch/ sound that no test can run: do they parse, agree, name what exists?"""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

from dnallm_jax.parallel.hosts import STOPPED

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"


def test_shellcheck() -> None:
    """The one that comes with this Python's packages; planted, what it must find in a script."""
    checker = Path(sys.executable).with_name("shellcheck")
    scripts = sorted(f"launch/{path.name}" for path in LAUNCH.glob("*.sh"))

    def said(*words: str, script: str = "") -> str:
        line = [checker, *words]
        done = subprocess.run(line, cwd=ROOT, input=script, stdout=-1, text=True, check=False)
        return done.stdout

    assert said(*scripts, ".ci/run", ".ci/make-venv") == ""
    assert "SC2086" in said("--shell=bash", "-", script="rm $1")


def test_the_jobset() -> None:
    """One pod a host; the command's own failures end it, 75 and lost nodes restart it."""
    jobset = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
    assert (jobset["kind"], jobset["apiVersion"]) == ("JobSet", "jobset.x-k8s.io/v1alpha2")
    (rule,) = jobset["spec"]["failurePolicy"]["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    chips = math.prod(map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")))
    hosts = chips / container["resources"]["limits"]["google.com/tpu"]
    assert job["parallelism"] == job["completions"] == hosts
    assert (job["backoffLimit"], pod["restartPolicy"]) == (0, "Never")
    disruption, failure = job["podFailurePolicy"]["rules"]
    assert disruption["action"] == "Count"
    assert disruption["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert failure["action"] == "FailJob"
    assert failure["onExitCodes"]["containerName"] == container["name"]
    assert failure["onExitCodes"]["values"] == [1, 2]
    assert container["command"] == ["python", "main.py"]
    check_arguments(container["args"])
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts)


def test_the_skypilot_task() -> None:
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    recovery = task["resources"]["job_recovery"]
    assert recovery["recover_on_exit_codes"] == [STOPPED]
    assert task["resources"]["use_spot"] is True
    for name in ("setup", "run"):
        subprocess.run(["bash", "-n", "-c", task[name]], check=True)
    assert set(re.findall(r"\$\{?(\w+)", task["run"])) <= set(task["envs"])
    words = subprocess.check_output(
        ["bash", "-c", f"exec() {{ printf '%s\\n' \"$@\"; }}\n{task['run']}"],
        env={"PATH": os.environ["PATH"]} | {k: v or "" for k, v in task["envs"].items()},
        text=True,
    )
    program, main, *arguments = words.splitlines()
    assert (program, main) == (".venv/bin/python", "main.py")
    check_arguments(arguments)


def test_all_that_start_a_run_again_know_its_exit_code() -> None:
    """What `main.py` ends with when it was stopped; of a JobSet all but 1 and 2 start it again."""
    assert STOPPED == 75
    assert f"\nreadonly PREEMPTED={STOPPED} " in (LAUNCH / "loop.sh").read_text()
    assert f"\n| {STOPPED} | stopped, or a host" in (ROOT / "README.md").read_text()
    assert f"--restart-on-exit-codes={STOPPED}" in (LAUNCH / "README.md").read_text()


def check_arguments(arguments: list[str]) -> None:
    """The command and its config exist; it runs on the TPU, with its workdir in the bucket."""
    command, *flags = arguments
    values = dict(flag.removeprefix("--").split("=", 1) for flag in flags)
    assert (ROOT / f"dnallm_jax/commands/{command}.py").is_file()
    assert (ROOT / values["config"]).is_file()
    assert values["platform"] == "tpu"
    assert values["workdir"].startswith("/bucket/")


def test_the_container_file_names_what_there_is() -> None:
    text = (LAUNCH / "Containerfile").read_text().replace("\\\n", " ")
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    copied = [word for line in lines if line[0] == "COPY" for word in line[1:-1]]
    assert {"main.py", "configs", "data_pipeline", "dnallm_jax"} <= set(copied)
    for pattern in copied:
        assert list(ROOT.glob(pattern)), pattern
    (requirements,) = (line[1] for line in lines if line[0] == "ARG")
    assert (ROOT / requirements.partition("=")[2]).is_file()
    assert lines[-1] == ["ENTRYPOINT", '["python",', '"main.py"]']
