#!/usr/bin/env bash
# Runs a command again until it has ended for good.
set -euo pipefail

usage() {
  cat <<'END'
usage: launch/run.sh [--restarts N] [--pause SECONDS] [--report FILE]
                     [--dry_run] -- COMMAND…

Runs COMMAND, and again after exit code 75 (stopped by a signal, everything
saved), 76 (a process of the run was lost) or 134 (JAX aborted because one was),
at most N times more (default 100), PAUSE seconds apart (default 10), until
FILE, such as runs/bert_lamb/report.html, exists. Any other exit code ends it at
once and is its own; so does 0, which with --report must have left FILE. Remove
FILE to go on with more steps.

  launch/run.sh --report runs/bert_lamb/report.html -- \
    python3 -m jaxlab.main --config=configs/bert_lamb.py

A signal to this script goes to COMMAND and is the last: no restart follows.
Environment: DRY_RUN=1 as --dry_run.
END
}

fail() {
  echo "run.sh: $1" >&2
  exit 2
}

restarts=100 pause=10 report='' dry_run=${DRY_RUN:-}
while (($#)); do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --restarts) restarts=${2:-}; shift 2 || fail '--restarts needs a number' ;;
    --restarts=*) restarts=${1#*=}; shift ;;
    --pause) pause=${2:-}; shift 2 || fail '--pause needs seconds' ;;
    --pause=*) pause=${1#*=}; shift ;;
    --report) report=${2:-}; shift 2 || fail '--report needs a file' ;;
    --report=*) report=${1#*=}; shift ;;
    --dry_run) dry_run=1; shift ;;
    --) shift; break ;;
    *) fail "unknown option $1; the command comes after --" ;;
  esac
done
[[ $restarts =~ ^[0-9]+$ ]] || fail "--restarts must be a number, not '$restarts'"
[[ $pause =~ ^[0-9]+([.][0-9]+)?$ ]] ||
  fail "--pause must be seconds, not '$pause'"
(($#)) || fail 'nothing to run: give a command after --'

if [[ -n $dry_run ]]; then
  echo "$@"
  echo "# again after exit code 75, 76 or 134, at most $restarts times," \
    "$pause s apart${report:+, until $report exists}"
  exit 0
fi

child='' told=''
tell() {
  told=1
  [[ -z $child ]] || kill -TERM "$child" 2>/dev/null || true
}
trap tell TERM INT

for ((restart = 0; ; restart++)); do
  if [[ -n $report && -e $report ]]; then
    echo "run.sh: $report is there" >&2
    exit 0
  fi
  "$@" &
  child=$!
  while :; do
    code=0
    wait "$child" || code=$?
    # A signal ends `wait` as well; then the child is still there.
    kill -0 "$child" 2>/dev/null || break
  done
  if [[ -n $told ]]; then
    code=0
    wait "$child" || code=$?
  fi
  child=''
  if ((code == 0)); then
    for ((i = 0; i < 10; i++)); do # a shared file system may lag behind
      [[ -n $report && ! -e $report ]] || exit 0
      sleep 1
    done
    fail "the command ended with 0 and left no $report"
  fi
  ((code == 75 || code == 76 || code == 134)) || exit "$code"
  [[ -z $told ]] || exit "$code"
  if ((restart >= restarts)); then
    echo "run.sh: exit code $code after $restarts restarts; giving up" >&2
    exit "$code"
  fi
  echo "run.sh: exit code $code; restart $((restart + 1)) of $restarts" \
    "in $pause s" >&2
  sleep "$pause"
done
