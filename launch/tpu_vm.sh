#!/usr/bin/env bash
# A Cloud TPU slice by queued resources: create, copy, run, tail, delete.
set -euo pipefail

usage() {
  cat <<'END'
usage: launch/tpu_vm.sh COMMAND --name NAME --project PROJECT --zone ZONE
                        [options] [--dry_run] [-- ARGS…]

  create  --type TYPE [--runtime VERSION] [--spot]
          requests a slice, such as TYPE v3-32, and waits until it is there;
          VERSION is by default what its kind takes with JAX:
            v2-*, v3-*, v4-*  tpu-ubuntu2204-base
            v5litepod-*       v2-alpha-tpuv5-lite
            v5p-*             v2-alpha-tpuv5
            v6e-*             v2-alpha-tpuv6e
  copy    copies the last commit to all workers and installs it there, with a
          Python of uv's, since that of Ubuntu 22.04 is 3.10
  run     --workdir DIR -- ARGS…
          starts `python -m jaxlab.main ARGS… --distributed` on all workers
          under launch/run.sh, which restarts it when a host was lost or
          preempted; DIR must lie on storage that all workers share
  tail    follows what worker 0 prints
  stop    asks the run to save and end (SIGTERM)
  delete  deletes the slice and its request

  launch/tpu_vm.sh run --name pod --project PROJECT --zone ZONE \
    --workdir /mnt/shared/bert -- --config=configs/bert_lamb.py:paper

Environment: DRY_RUN=1 as --dry_run, which prints every command and runs none.
END
}

fail() {
  echo "tpu_vm.sh: $1; see launch/tpu_vm.sh --help" >&2
  exit 2
}

verb='' name='' project='' zone='' type='' runtime='' workdir='' spot=''
dry_run=${DRY_RUN:-}
while (($#)); do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --name | --project | --zone | --type | --runtime | --workdir)
      [[ -n ${2:-} && $2 != --* ]] || fail "$1 needs a value"
      printf -v "${1#--}" %s "$2"
      shift 2
      ;;
    --spot) spot=1; shift ;;
    --dry_run) dry_run=1; shift ;;
    --) shift; break ;;
    -*) fail "unknown option $1; options of the run come after --" ;;
    *)
      [[ -z $verb ]] || fail "two commands: $verb and $1"
      verb=$1
      shift
      ;;
  esac
done
case $verb in
  create | copy | run | tail | stop | delete) ;;
  '') fail 'a command is missing: create, copy, run, tail, stop or delete' ;;
  *) fail "unknown command $verb" ;;
esac
need() {
  local option
  for option; do
    [[ -n ${!option} ]] || fail "$verb needs --$option"
  done
}
need name project zone
[[ $verb == run ]] || (($# == 0)) || fail "$verb takes nothing after --"

do_it() {
  if [[ -n $dry_run ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

where=(--project "$project" --zone "$zone")
queue=(gcloud compute tpus queued-resources)
vm=(gcloud compute tpus tpu-vm)

on_workers() { # which ones, then a command for their shell
  do_it "${vm[@]}" ssh "$name" "${where[@]}" --worker="$1" --command "$2"
}

case $verb in
  create)
    need type
    if [[ -z $runtime ]]; then
      case $type in
        v[234]-*) runtime=tpu-ubuntu2204-base ;;
        v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
        v5p-*) runtime=v2-alpha-tpuv5 ;;
        v6e-*) runtime=v2-alpha-tpuv6e ;;
        *) fail "no runtime version is known for $type; give --runtime" ;;
      esac
    fi
    do_it "${queue[@]}" create "$name" --node-id "$name" "${where[@]}" \
      --accelerator-type "$type" --runtime-version "$runtime" \
      ${spot:+--spot}
    state=(
      "${queue[@]}" describe "$name" "${where[@]}"
      '--format=value(state.state)'
    )
    if [[ -n $dry_run ]]; then
      do_it "${state[@]}"
      exit 0
    fi
    while found=$("${state[@]}"); [[ $found != ACTIVE ]]; do
      case $found in
        FAILED | SUSPENDING | SUSPENDED) fail "the request is $found" ;;
      esac
      echo "tpu_vm.sh: $name is $found" >&2
      sleep 30
    done
    ;;
  copy)
    if [[ -n $dry_run ]]; then
      archive=ARCHIVE
    else
      archive=$(mktemp --suffix=.tar.gz)
      trap 'rm -f "$archive"' EXIT
    fi
    do_it git archive --format=tar.gz -o "$archive" HEAD
    do_it "${vm[@]}" scp "$archive" "$name:jaxlab.tar.gz" "${where[@]}" \
      --worker=all
    on_workers all 'rm -rf jaxlab && mkdir jaxlab &&
tar -xzf jaxlab.tar.gz -C jaxlab && cd jaxlab && python3 -m pip install -q \
  --user uv && python3 -m uv venv -q --python 3.12 .venv &&
python3 -m uv pip install -q -e ".[run]" "jax[tpu]"'
    ;;
  run)
    need workdir
    (($#)) || fail 'run needs the options of jaxlab.main after --'
    command=(
      launch/run.sh --report "$workdir/report.html" --
      .venv/bin/python -m jaxlab.main "$@" --distributed
      --workdir="$workdir"
    )
    printf -v quoted '%q ' "${command[@]}"
    on_workers all "cd jaxlab && { nohup $quoted> ~/jaxlab.log 2>&1 &
echo \$! > ~/jaxlab.pid; }"
    ;;
  tail) on_workers 0 'tail -n 100 -F jaxlab.log' ;;
  stop) on_workers all 'kill -TERM $(cat jaxlab.pid)' ;;
  delete)
    do_it "${queue[@]}" delete "$name" "${where[@]}" --force --quiet
    ;;
esac
