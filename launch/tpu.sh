#!/usr/bin/env bash
# How does a command of this project run on a Cloud TPU slice? This file reads the call and checks it;
# slice.sh holds the steps, loop.sh the loop, worker.sh what happens on a worker. See launch/README.md.
set -euo pipefail

usage() {
  cat <<'END'
usage: launch/tpu.sh STEP [--SETTING=VALUE ...] [-- COMMAND ARGUMENT ...]

  create   ask for the slice through queued resources and wait until it is ACTIVE
  copy     copy the commit HEAD to every worker, mount the storage, install requirements-tpu.txt
  start    start `python main.py COMMAND ARGUMENT ... --platform=tpu` on every worker, detached
  status   say how the slice and its command are
  logs     follow the log of worker 0
  fetch    bring the results here
  delete   delete the slice
  run      all of it: create, copy, start, watch; after a preemption create again and resume;
           at the end fetch and delete

  --env=FILE             read settings from FILE, one setting=value a line; what stands later wins
  --name=NAME            the slice's name: one run, one name
  --project=ID
  --zone=ZONE
  --accelerator-type=T   kind and size, such as v5litepod-16
  --runtime-version=V    system image, such as v2-alpha-tpuv5-lite
  --node-count=N         slices that work as one (default 1)
  --spot                 cheap, and preempted at any time
  --create-flag=FLAG     a further flag of gcloud's queued-resources create; may be repeated
  --connect-flag=FLAG    a further flag of its ssh and scp, such as --internal-ip; may be repeated
  --mount=SHELL          run on every worker before the command: mounts the storage of --workdir
  --fetch-from=WHERE     gs://BUCKET/PATH, or a path on worker 0
  --fetch-to=DIR         default: runs/NAME
  --max-restarts=N       how often `run` replaces a lost slice (default 50)
  --poll=SECONDS         between two looks (default 30)
  --backoff=SECONDS      before a lost slice is replaced (default 30); the wait doubles with every
                         slice in a row that never ran the command, up to 32 times this
  --delete-on-failure    `run` deletes the slice also when the command fails
  --dry-run              print every cloud command, run none (also DRY_RUN=1)

`run` ends with 0 (done), the command's own code (it failed), 2 (a mistake in the call), 1 (trouble
with the cloud) or 75 (preempted more than --max-restarts times; the same call goes on).
END
}

name="" project="" zone="" accelerator_type="" runtime_version="" node_count=1 spot=false mount=""
fetch_from="" fetch_to="" max_restarts=50 poll=30 backoff=30 delete_on_failure=false dry_run=false
create_flags=() connect_flags=() command=() commit=""

say() { printf '%s  %s\n' "$(date +%H:%M:%S)" "$*" >&2; }
stop() { # exit code, sentence
  printf 'launch/tpu.sh: %s\n' "$2" >&2
  exit "$1"
}
mistake() { stop 2 "$1"; }

take() { # setting, value, where it stands
  case $1 in
    name | project | zone | accelerator-type | runtime-version | node-count | spot | mount | fetch-from | \
      fetch-to | max-restarts | poll | backoff | delete-on-failure | dry-run) printf -v "${1//-/_}" %s "$2" ;;
    create-flag) create_flags+=("$2") ;;
    connect-flag) connect_flags+=("$2") ;;
    *) mistake "$3: there is no setting '$1'; launch/tpu.sh help lists them" ;;
  esac
}

read_settings() { # file
  local file=$1 line
  [ -f "$file" ] || mistake "--env=$file: there is no such file"
  while IFS= read -r line || [ -n "$line" ]; do
    line=${line%$'\r'}
    case $line in
      "" | "#"*) ;;
      *=*) take "${line%%=*}" "${line#*=}" "--env=$file" ;;
      *) mistake "--env=$file: '$line' is not of the form setting=value" ;;
    esac
  done < <(cat "$file")
}

read_flags() {
  local word
  while [ $# -gt 0 ]; do
    word=${1#--}
    case $1 in
      --) shift && command=("$@") && return ;;
      --env=*) read_settings "${word#env=}" ;;
      --spot | --delete-on-failure | --dry-run) take "$word" true "$1" ;;
      --*=*) take "${word%%=*}" "${word#*=}" "--${word%%=*}" ;;
      *) mistake "unexpected '$1'; settings are written --name=value, and the command stands after --" ;;
    esac
    shift
  done
}

need() { # settings that this step cannot do without
  local setting variable means
  for setting; do
    variable=${setting//-/_}
    case $setting in
      name) means="a name of your choice for the slice" ;;
      project) means="the Google Cloud project that pays" ;;
      zone) means="where the slice shall be, such as us-east5-b" ;;
      accelerator-type) means="kind and size of the slice, such as v5litepod-16" ;;
      runtime-version) means="the slice's system image (launch/README.md has a table)" ;;
      *) means="gs://BUCKET/PATH, or a path on worker 0" ;;
    esac
    [ -n "${!variable}" ] || mistake "--$setting is not set: $means"
  done
}

check_settings() {
  local setting variable
  for setting in node-count max-restarts poll backoff; do
    variable=${setting//-/_}
    case ${!variable} in
      "" | *[!0-9]*) mistake "--$setting=${!variable} is not a whole number" ;;
    esac
  done
  [ "$node_count" -ge 1 ] || mistake "--node-count=$node_count: a run needs a slice"
  for setting in spot delete-on-failure dry-run; do
    variable=${setting//-/_}
    case ${!variable} in
      true | false) ;;
      *) mistake "--$setting=${!variable} is neither true nor false" ;;
    esac
  done
  case $name in
    [!a-z]* | *[!a-z0-9-]* | *-) mistake "--name=$name: use small letters, digits and hyphens, a letter first" ;;
  esac
  fetch_to=${fetch_to:-runs/$name}
}

check_command() { # what is wrong with the command is better known before a slice is paid for
  local word path platform=--platform=tpu
  [ ${#command[@]} -gt 0 ] || mistake "there is no command; write it after --, as in -- pretrain --config=..."
  git cat-file -e "$commit:dnallm_jax/commands/${command[0]}.py" 2>/dev/null ||
    mistake "'${command[0]}' is no command of main.py; python main.py --help lists them"
  for word in "${command[@]}"; do
    case $word in
      --platform=*) platform="" ;;
      --workdir=gs://*) ;;
      --workdir=*://*) mistake "$word is neither a folder nor gs://BUCKET/PATH" ;;
      --config=*)
        path=${word#--config=}
        git cat-file -e "$commit:${path%%:*}" 2>/dev/null ||
          mistake "$word is not in the commit HEAD, and only that is copied; commit it first"
        ;;
    esac
  done
  case ${command[0]} in prepare | demo) platform="" ;; esac # these use no device
  [ -z "$platform" ] || command+=("$platform")
}

folder=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=launch/slice.sh
. "$folder/slice.sh"
# shellcheck source=launch/loop.sh
. "$folder/loop.sh"

step=${1:-help}
case $step in
  help | --help | -h) usage && exit ;;
  create | copy | start | status | logs | fetch | delete | run) shift ;;
  *) mistake "there is no step '$step'; the steps are create, copy, start, status, logs, fetch, delete and run" ;;
esac
case ${DRY_RUN:-} in "" | 0 | false) ;; *) dry_run=true ;; esac
read_flags "$@"
need name project zone
check_settings
cd "$folder/.."
commit=$(git rev-parse HEAD)
case $step in
  create) need accelerator-type runtime-version ;;
  start) check_command ;;
  fetch) need fetch-from ;;
  run) need accelerator-type runtime-version && check_command ;;
esac
[ "$dry_run" = true ] || command -v gcloud >/dev/null || stop 1 "gcloud, the Google Cloud CLI, is not installed here"
errors=$(mktemp)
trap 'rm -f "$errors"' EXIT

case $step in
  create)
    request
    wait_until_active || stop 1 "$name is $state and will not become ACTIVE; delete it and ask again"
    ;;
  copy) copy ;;
  start) start any ;;
  status) status ;;
  logs) on 0 "$(worker log)" ;;
  fetch) fetch ;;
  delete) remove ;;
  run) run ;;
esac
