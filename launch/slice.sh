#!/usr/bin/env bash
# What can be done with a slice? The steps of launch/tpu.sh, which sources this file: each is one
# or a few commands of gcloud. A step returns non-zero when it failed; only a hopeless one stops.
# shellcheck disable=SC2154 # the settings (name, zone, ...) and `errors`, a file, are tpu.sh's
# shellcheck disable=SC2034 # loop.sh reads what `probe` finds

readonly TRIES=5         # for what should work at once: a request, a deletion, a set-up, an answer
readonly CODE=dnallm_jax # the folder of the code in a worker's home directory
supposed=GONE            # a dry run's idea of the slice's state

quote() { # the words, as a shell must read them to get the same words again
  local word line="" apostrophe="'" escaped="'\\''"
  for word; do
    case $word in
      "" | *[!A-Za-z0-9_./:=,@%+-]*) word="'${word//$apostrophe/$escaped}'" ;;
    esac
    line="$line $word"
  done
  printf '%s\n' "${line# }"
}

act() { # a command; a dry run prints it
  if [ "$dry_run" = true ]; then quote "$@"; else "$@"; fi
}

cloud() { # verb and arguments of gcloud's queued-resources
  act gcloud compute tpus queued-resources "$@" "--project=$project" "--zone=$zone" --quiet
}

connect() { # ssh or scp and its arguments
  cloud "$@" ${connect_flags[@]+"${connect_flags[@]}"}
}

on() { # 0 or all, a line for the shell of worker 0 or of every worker
  connect ssh "$name" "--worker=$1" "--node=$1" "--command=$2"
}

worker() { # the line that calls worker.sh with these arguments
  quote bash "$CODE/launch/worker.sh" "$@"
}

pause() { # seconds
  [ "$dry_run" = true ] || [ "$1" -eq 0 ] || sleep "$1"
}

look() { # sets state, as the cloud calls it; GONE: there is no such slice
  local try
  if [ "$dry_run" = true ]; then
    cloud describe "$name" '--format=value(state.state)'
    state=$supposed && return
  fi
  for ((try = 0; try < 4 * TRIES; try++)); do
    if state=$(cloud describe "$name" '--format=value(state.state)' 2>"$errors"); then return; fi
    if grep -q NOT_FOUND "$errors"; then state=GONE && return; fi
    say "the cloud does not answer: $(tail -n 1 "$errors")"
    pause "$poll"
  done
  stop 1 "gave up asking for the state of $name; if it is there, it still costs"
}

request() {
  local shape=("--node-id=$name") tier=()
  [ "$node_count" -eq 1 ] || shape=("--node-count=$node_count" "--node-prefix=$name")
  [ "$spot" = false ] || tier=(--spot)
  supposed=ACTIVE
  cloud create "$name" "${shape[@]}" "--accelerator-type=$accelerator_type" \
    "--runtime-version=$runtime_version" ${tier[@]+"${tier[@]}"} \
    ${create_flags[@]+"${create_flags[@]}"} --async
}

wait_until_active() { # 1: it never will be
  local unseen=0
  while look; do
    case $state in
      ACTIVE) return 0 ;;
      FAILED | SUSPENDING | SUSPENDED | DELETING) return 1 ;;
      GONE) unseen=$((unseen + 1)) ;; # what was asked for just now may not be listed yet
    esac
    [ "$unseen" -lt "$TRIES" ] || return 1
    say "$name is $state"
    pause "$poll"
  done
}

copy() { # the commit, the mount and .venv, to and on every worker
  local archive=build/launch/$name.tar.gz
  git diff --quiet HEAD || say "changes that are not committed are not copied"
  act mkdir -p build/launch &&
    act git archive --format=tar.gz "--output=$archive" "$commit" &&
    connect scp "$archive" "$name:$CODE.tar.gz" --worker=all --node=all &&
    on all "mkdir -p $CODE && tar -xzf $CODE.tar.gz -C $CODE && $(worker setup "$mount")"
}

start() { # durable (refuse a workdir that a preemption would delete) or any
  on all "$(worker start "$1" "${command[@]}")"
}

probe() { # sets program to "running", "other COMMAND", "exit CODE", "lost", or "" when nobody answers
  local answer
  if [ "$dry_run" = true ]; then
    on 0 "$(worker status "${command[@]}")"
    program="exit 0" && return
  fi
  answer=$(on 0 "$(worker status "${command[@]}")" 2>"$errors") || true
  program=$(sed -n 's/^program: //p' <<<"$answer")
  last_line=$(sed -n 's/^log: //p' <<<"$answer")
}

status() {
  look
  echo "slice: $state"
  [ "$state" != ACTIVE ] || on 0 "$(worker status)"
}

fetch() {
  local path=$fetch_from
  act mkdir -p "$fetch_to" || return
  case $path in
    gs://*) act gcloud storage rsync "$path" "$fetch_to" --recursive "--project=$project" --quiet && return ;;
    /*) ;;
    *) path=$CODE/$path ;;
  esac
  connect scp "$name:$path" "$fetch_to" --recurse
}

remove() {
  local try
  for ((try = 0; try < TRIES; try++)); do
    look
    [ "$state" != GONE ] || return 0
    supposed=GONE
    cloud delete "$name" --force || pause "$poll"
  done
  look
  [ "$state" = GONE ] || stop 1 "$name could not be deleted and may still cost; delete it by hand"
}
