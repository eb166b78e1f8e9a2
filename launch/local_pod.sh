#!/usr/bin/env bash
# Several CPU processes on this machine as one run, on loopback.
set -euo pipefail

usage() {
  cat <<'END'
usage: launch/local_pod.sh N [--devices K] [--dry_run] -- ARGS…

Runs N processes of `python -m jaxlab.main ARGS…`, each with K CPU devices
(default 4), and puts each line's process id before it. When one fails, the
others are stopped; the exit code is that of the first that failed. Ctrl-C and
SIGTERM go to all: they save and leave with 75.

  launch/local_pod.sh 2 --devices 4 -- --config=configs/bert_lamb.py:smoke

Environment: PYTHON (default: .venv/bin/python, else python3),
JAXLAB_MODULE (default: jaxlab.main), JAXLAB_GRACE (seconds until the others
are killed, default 20), DRY_RUN=1 as --dry_run.
END
}

fail() {
  echo "local_pod.sh: $1" >&2
  exit 2
}

processes='' devices=4 dry_run=${DRY_RUN:-}
while (($#)); do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --devices) devices=${2:-}; shift 2 || fail '--devices needs a number' ;;
    --devices=*) devices=${1#*=}; shift ;;
    --dry_run) dry_run=1; shift ;;
    --) shift; break ;;
    -*) fail "unknown option $1; options of the run come after --" ;;
    *)
      [[ -z $processes ]] || fail "two numbers of processes: $processes and $1"
      processes=$1
      shift
      ;;
  esac
done
[[ $processes =~ ^[1-9][0-9]*$ ]] ||
  fail "N must be a number of processes, at least 1, not '$processes'"
[[ $devices =~ ^[1-9][0-9]*$ ]] ||
  fail "--devices must be at least 1, not '$devices'"
(($#)) || fail 'nothing to run: give the options of jaxlab.main after --'

python=${PYTHON:-}
if [[ -z $python ]]; then
  python=python3
  [[ -x .venv/bin/python ]] && python=.venv/bin/python
fi
if [[ -n $dry_run ]]; then
  port=PORT
else
  port=$("$python" -c 'import socket
with socket.socket() as s:
  s.bind(("127.0.0.1", 0))
  print(s.getsockname()[1])')
fi

program=("$python" -m "${JAXLAB_MODULE:-jaxlab.main}" "$@"
  --cpu_devices="$devices" --coordinator="127.0.0.1:$port"
  --num_processes="$processes")
export JAX_PLATFORMS=cpu PYTHONUNBUFFERED=1

if [[ -n $dry_run ]]; then
  for ((id = 0; id < processes; id++)); do
    echo "JAX_PLATFORMS=cpu ${program[*]} --process_id=$id"
  done
  exit 0
fi

pids=() prefixers=()
for ((id = 0; id < processes; id++)); do
  # Gloo speaks of each connection that it makes.
  exec {out}> >(sed -u -e '/^\[Gloo\]/d' -e "s/^/[$id] /")
  prefixers+=($!)
  exec {err}> >(sed -u "s/^/[$id] /" >&2)
  prefixers+=($!)
  "${program[@]}" --process_id="$id" >&"$out" 2>&"$err" &
  pids+=($!)
  exec {out}>&- {err}>&-
done

stop() { kill -"$1" "${pids[@]}" 2>/dev/null || true; }
finish() {
  stop KILL
  wait "${prefixers[@]}" 2>/dev/null || true # the last lines
}
trap 'stop TERM' TERM INT
trap finish EXIT

# `wait -n` loses one of two that end together, so: ask ten times a second.
exec {never}<> <(:)
first=0 now=0 deadline=''
left=("${pids[@]}")
while ((${#left[@]})); do
  read -rt 0.1 -u "$never" || true
  still=()
  for pid in "${left[@]}"; do
    if kill -0 "$pid" 2>/dev/null; then
      still+=("$pid")
      continue
    fi
    code=0
    wait "$pid" 2>/dev/null || code=$?
    # 76 and 134 say that another one has failed.
    if ((code && (!first || ((first == 76 || first == 134) && now)))); then
      first=$code now=1
    fi
  done
  now=0
  left=("${still[@]}")
  ((first)) || continue
  # The others notice, say why and end; they are killed if they hang.
  [[ -n $deadline ]] || deadline=$((SECONDS + ${JAXLAB_GRACE:-20}))
  if ((SECONDS >= deadline)); then
    stop KILL
  fi
done
exit "$first"
