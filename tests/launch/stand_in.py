"""What would Google Cloud do? A stand-in `gcloud` with a slice of two workers that it may preempt.

It is started a hundred times a test, so it imports next to nothing. What it knows lies in the
folder $CLOUD, a value a file: `calls` (the arguments of each call), `state` (of the slice),
`created` (how often), `fate`, `looks`, `probes` (counted down), `plan` (a line for each slice: its
fate, looks until it is ACTIVE, probes of its running command until it meets that fate), and the
workers' home folders. What a worker's shell is told is really run, in its home folder. Fates:

    well         the command ends with 0                 failed-CODE  it ends with that code
    stockout     the request fails while it waits        refused      the request is refused at once
    saved        the command saves and ends with 75      terminated   SIGTERM ends the command: 143
    suspended    slice and disks are deleted, SUSPENDED  vanished     as if there never had been one
    crashed      the command ends with 134, and the slice is SUSPENDED two looks later
    silent       no worker answers any more
"""

import os
import sys

CLOUD = os.environ["CLOUD"]
HOMES = [f"{CLOUD}/worker-{i}" for i in (0, 1)]
FLAGS = {
    "create": {"node-id", "accelerator-type", "runtime-version", "spot", "async"},
    "describe": {"format"},
    "delete": {"force"},
    "ssh": {"worker", "node", "command"},
    "scp": {"worker", "node"},
}
EVERYWHERE = {"project", "zone", "quiet"}
ENDS = {"well": "0", "saved": "75", "terminated": "143", "crashed": "134"}


def fail(text: str, code: int = 1) -> None:
    print(f"ERROR: (gcloud.compute.tpus.queued-resources) {text}", file=sys.stderr)
    sys.exit(code)


def read(name: str) -> str:
    with open(f"{CLOUD}/{name}") as file:
        return file.read().strip()


def write(name: str, value: object) -> None:
    with open(f"{CLOUD}/{name}", "w") as file:
        file.write(f"{value}\n")


def count_down(name: str) -> int:
    write(name, int(read(name)) - 1)
    return int(read(name))


def shell(home: str, line: str) -> int:
    os.environ["HOME"] = home
    return os.waitstatus_to_exitcode(os.system(f"cd '{home}' && {line}"))


def lose(state: str) -> None:
    os.system(f"rm -rf {' '.join(HOMES)}")
    write("state", state)


def create() -> None:
    if read("state") != "GONE":
        fail("ALREADY_EXISTS: Resource already exists")
    plan, created = read("plan").splitlines(), int(read("created"))
    fate, looks, probes = plan[min(created, len(plan) - 1)].split()
    write("created", created + 1)
    if fate == "refused":
        fail("RESOURCE_EXHAUSTED: Quota limit 'TPUS' has been exceeded")
    for name, value in (("fate", fate), ("looks", looks), ("probes", probes)):
        write(name, value)
    write("state", "WAITING_FOR_RESOURCES")


def describe() -> None:
    """Prints the state; a look brings a slice that is coming, or going, one step further."""
    fate = read("fate")
    if read("state") == "WAITING_FOR_RESOURCES" and count_down("looks") < 0:
        write("state", "FAILED" if fate == "stockout" else "ACTIVE")
        for home in HOMES:
            os.mkdir(home)
    elif read("state") == "ACTIVE" and fate == "crashed" and int(read("probes")) <= 0:
        if count_down("looks") < -3:
            lose("SUSPENDED")
    if read("state") == "GONE":
        fail("NOT_FOUND: Resource 'projects/p/locations/z/queuedResources/n' was not found")
    print(read("state"))


def delete() -> None:
    if read("state") == "GONE":
        fail("NOT_FOUND: Resource was not found")
    lose("GONE")


def meet_fate() -> None:
    """At every question to a worker on which the command was started."""
    fate, probes = read("fate"), count_down("probes")
    if probes <= 0 and fate == "silent":
        fail("ssh: connect to host port 22: Connection timed out", 255)
    if probes == 0 and fate in ("suspended", "vanished"):
        lose("SUSPENDED" if fate == "suspended" else "GONE")
        fail("TPU is in state PREEMPTED")
    if probes == 0:
        write("worker-0/end", ENDS.get(fate) or fate.removeprefix("failed-"))


def ssh(command: str, worker: str) -> None:
    if read("state") != "ACTIVE":
        fail(f"the slice is {read('state')}", 255)
    if "worker.sh status" in command and os.path.exists(f"{HOMES[0]}/dnallm_jax/run.log"):
        meet_fate()
    codes = [shell(home, command) for home in (HOMES if worker == "all" else HOMES[:1])]
    sys.exit(max(codes))


def scp(source: str, target: str) -> None:
    if read("state") != "ACTIVE":
        fail(f"the slice is {read('state')}", 255)
    for home in HOMES:
        os.system(f"cp '{source}' '{home}/{target.partition(':')[2]}'")


def main(arguments: list[str]) -> None:
    with open(f"{CLOUD}/calls", "a") as calls:
        calls.write(f"{arguments!r}\n")
    words = [a for a in arguments if not a.startswith("--")]
    flags = {a[2:].partition("=")[0]: a.partition("=")[2] for a in arguments if a.startswith("--")}
    if words[:2] == ["storage", "rsync"]:
        if os.path.exists(f"{CLOUD}/no-storage"):
            fail("storage does not answer")
        os.system(f"cp -R {CLOUD}/bucket/. {words[3]}")
        return
    if words[:3] != ["compute", "tpus", "queued-resources"]:
        fail(f"Invalid choice: {words}", 2)
    verb, _, *rest = words[3:]
    if set(flags) - FLAGS[verb] - EVERYWHERE or not set(flags) >= EVERYWHERE:
        fail(f"unrecognized or missing flags: {sorted(flags)}", 2)
    if verb == "ssh":
        ssh(flags["command"], flags["worker"])
    elif verb == "scp":
        scp(words[4], *rest)
    else:
        {"create": create, "describe": describe, "delete": delete}[verb]()


if __name__ == "__main__":
    main(sys.argv[1:])
