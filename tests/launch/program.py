"""A stand-in for main.py on a stand-in worker: counts steps in its workdir until told how to end.

Every step is saved, so a run that resumes leaves the numbers 0, 1, 2, ... there, each once.
"""

import os
import sys
import time

HOME = os.environ["HOME"]
WORKER = os.path.basename(HOME)
WORKDIR = next(a.partition("=")[2] for a in sys.argv if a.startswith("--workdir="))
END = f"{HOME}/end"

with open(f"{WORKDIR}/starts", "a") as starts:
    starts.write(f"{[WORKER, *sys.argv[1:]]!r}\n")
deadline = time.monotonic() + 60
while WORKER == "worker-0" and os.path.exists(HOME) and time.monotonic() < deadline:
    with open(f"{WORKDIR}/steps", "a+") as steps:
        steps.seek(0)
        count = len(steps.readlines())
        steps.write(f"{count}\n")
    print("step", count, flush=True)
    if os.path.exists(END) and os.path.getsize(END):
        with open(END) as file:
            sys.exit(int(file.read()))
    time.sleep(0.05)
