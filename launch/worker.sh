#!/usr/bin/env bash
# What happens on one TPU worker? launch/tpu.sh copies the code there and calls this over ssh.
# Beside the code lie run.lock (held while the command runs), run.command, run.log and run.exit.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

stop() { # a mistake of the user's: exit code 2
  printf '%s: %s\n' "$(hostname)" "$1" >&2
  exit 2
}

setup() { # [shell line that mounts the storage]: makes .venv; does nothing that is done already
  local name
  if [ -n "${1:-}" ]; then bash -c "$1" || stop "the --mount command failed: $1"; fi
  if cat requirements-tpu.txt requirements-cloud.txt | cmp -s - .venv/requirements; then return; fi
  # The system's Python may be too old for the project (3.10 on Ubuntu 22.04): uv brings one that is not.
  if ! VENV=.venv sh .ci/make-venv; then
    echo "taking Python 3.12 from uv"
    PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --user --quiet uv
    python3 -m uv python install --quiet 3.12
    VENV=.venv PYTHON=$(python3 -m uv python find 3.12) sh .ci/make-venv
  fi
  # As the Makefile does it: the build tool first, for the one dependency that is published as source.
  for name in build tpu cloud; do
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
      --no-build-isolation --use-pep517 -r "requirements-$name.txt"
  done
  cat requirements-tpu.txt requirements-cloud.txt >.venv/requirements
}

refuse_boot_disk() { # arguments of the command: a preemption deletes the boot disk, and the workdir with it
  local word folder="" previous="" mounted
  for word; do
    [ "$previous" != --workdir ] || folder=$word
    case $word in --workdir=*) folder=${word#--workdir=} ;; esac
    previous=$word
  done
  case $folder in "" | gs://*) return 0 ;; esac
  previous=$folder
  while [ ! -e "$previous" ]; do previous=$(dirname "$previous"); done
  mounted=$(findmnt --noheadings --output TARGET --target "$previous")
  [ "$mounted" != / ] ||
    stop "--workdir=$folder is on the boot disk, which a preemption deletes; mount a bucket, disk or file share by --mount, and put the workdir there"
}

start() { # durable or any, command, arguments: starts main.py and returns
  exec 9>run.lock
  flock --nonblock 9 || stop "a command is running here already: $(cat run.command)"
  if [ "$1" = durable ]; then refuse_boot_disk "$@"; fi
  shift
  rm -f run.exit
  printf '%q ' "$@" >run.command
  # The shell that waits keeps the lock (the program does not inherit it) and outlives a SIGTERM to both.
  # shellcheck disable=SC2016 # the inner shell expands these
  setsid bash -c '
    trap : TERM
    .venv/bin/python main.py "$@" 9>&-
    echo $? >run.exit.part
    mv run.exit.part run.exit' main "$@" </dev/null >>run.log 2>&1 &
}

status() { # the command and arguments that are expected: says how they are, and the log's last line
  touch run.lock
  if ! flock --nonblock run.lock true; then
    if [ $# -eq 0 ] || [ "$(cat run.command)" = "$(printf '%q ' "$@")" ]; then
      echo "program: running"
    else
      echo "program: other $(cat run.command)"
    fi
  elif [ -f run.exit ]; then
    echo "program: exit $(cat run.exit)"
  else
    echo "program: lost"
  fi
  if [ -f run.log ]; then echo "log: $(tail -n 1 run.log)"; fi
}

log() { exec tail -n 100 -F run.log; }

case ${1:-} in
  setup | start | status | log) "$@" ;;
  *) stop "worker.sh knows setup, start, status and log, not '${1:-}'" ;;
esac
