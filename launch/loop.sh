#!/usr/bin/env bash
# How does a command get to its end on slices that may vanish at any moment? launch/tpu.sh sources this.
# Every function sets `verdict`: done; again (the slice is lost: take another); trouble (a step failed
# on a slice that is there); failed CODE (the command failed by itself).
# shellcheck disable=SC2154 # the settings (name, poll, ...) are tpu.sh's; state and program are slice.sh's

readonly PREEMPTED=75   # main.py: preempted, the checkpoint is saved, start again
readonly TERMINATED=143 # ended by the SIGTERM of a machine that shuts down

run() {
  local restarts=0 troubles=0 wait
  fruitless=0 # attempts in a row in which the command was never seen running
  trap 'say "no longer watching; $name goes on and costs: the same call watches again, delete ends it"; exit 130' INT TERM
  while :; do
    attempt
    case $verdict in
      "done") break ;;
      failed*) give_up "${verdict#failed }" ;;
      trouble)
        troubles=$((troubles + 1))
        [ "$troubles" -lt "$TRIES" ] ||
          stop 1 "$TRIES attempts in a row failed before the command started; if $name is there, it costs"
        ;;
      again)
        troubles=0 restarts=$((restarts + 1))
        remove
        [ "$restarts" -le "$max_restarts" ] ||
          stop "$PREEMPTED" "preempted more than --max-restarts=$max_restarts times; the same call goes on"
        ;;
    esac
    wait=$((backoff << (fruitless < 5 ? fruitless : 5)))
    fruitless=$((fruitless + 1))
    say "next attempt in $wait s (restart $restarts of at most $max_restarts)"
    pause "$wait"
  done
  say "the command is done, after $restarts restarts"
  if [ -n "$fetch_from" ]; then
    fetch || stop 1 "the command is done but its results were not fetched; $name is left as it is and costs"
  fi
  remove
}

attempt() { # one slice, from the request (or as it is found) to the command's end
  local code=0
  program=""
  look
  case $state in
    GONE) request || code=$? ;;
    FAILED | SUSPENDING | SUSPENDED | DELETING) remove && { request || code=$?; } ;;
    *) say "$name is there already: $state" ;;
  esac
  if [ "$code" -ne 0 ]; then verdict=trouble && return; fi
  if ! wait_until_active; then lost "$name is $state" && return; fi
  if [ "$dry_run" = false ]; then probe; fi # a loop that was ended and started again finds its command
  case $program in
    running) say "the command is running there already" ;;
    other*) mistake "$name is running another command: ${program#other }; choose another --name, or delete it" ;;
    *) { copy && start durable; } || code=$? ;;
  esac
  [ "$code" -ne 2 ] || mistake "see the message above; $name is left as it is and costs"
  if [ "$code" -ne 0 ]; then
    look
    if [ "$state" != ACTIVE ]; then lost "$name is $state" && return; fi
    verdict=trouble && return
  fi
  watch
}

watch() { # until the command or the slice has ended
  local silent=0
  while :; do
    pause "$poll"
    look
    if [ "$state" != ACTIVE ]; then lost "$name is $state" && return; fi
    probe
    case $program in
      running) fruitless=0 silent=0 && say "running: $last_line" ;;
      "exit 0") verdict="done" && return ;;
      "exit $PREEMPTED" | "exit $TERMINATED" | lost) lost "the command was preempted ($program)" && return ;;
      "exit "*) judge "${program#exit }" && return ;;
      *)
        silent=$((silent + 1))
        say "worker 0 does not answer: $(tail -n 1 "$errors")"
        if [ "$silent" -ge "$TRIES" ]; then lost "worker 0 is lost" && return; fi
        ;;
    esac
  done
}

judge() { # exit code: on a slice that is going, workers fail in many ways before the cloud says so
  local try
  for try in 1 2 3; do
    pause "$poll"
    look
    if [ "$state" != ACTIVE ]; then lost "the command ended with $1; look $try: $name is $state" && return; fi
  done
  verdict="failed $1"
}

lost() { # why
  say "$1"
  verdict=again
}

give_up() { # exit code
  if [ "$delete_on_failure" = true ]; then
    remove
    stop "$1" "the command failed with exit code $1; $name is deleted"
  fi
  stop "$1" "the command failed with exit code $1; $name is left for a look and costs (steps logs, delete)"
}
