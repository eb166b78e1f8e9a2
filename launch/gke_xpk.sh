#!/usr/bin/env bash
# A run on GKE's TPU slices, by xpk: create, tail, list, delete.
set -euo pipefail

usage() {
  cat <<'END'
usage: launch/gke_xpk.sh COMMAND --name NAME --cluster CLUSTER
                         --project PROJECT --zone ZONE
                         [options] [--dry_run] [-- ARGS…]

  create  --type TYPE --image IMAGE --workdir DIR [--slices N] [--restarts N]
          [--storage NAME] [--grace SECONDS] [--spot | --reservation NAME]
          -- ARGS…
          runs `python -m jaxlab.main ARGS… --distributed` on all hosts of N
          slices (default 1) of TYPE, such as v4-32; this folder is laid over
          IMAGE, which has Python 3.11; DIR must lie on storage that all hosts
          share: NAME of `xpk storage attach`. launch/run.sh restarts it when a
          host was lost or preempted, and Kubernetes what that cannot, N times
          (default 10). A host that is taken away has SECONDS (default 120, and
          of spot machines what Google gives, about 30) to save
  tail    follows what the first host prints
  list    the workloads of the cluster
  delete  ends and deletes the run

  launch/gke_xpk.sh create --name bert --cluster pods --project PROJECT \
    --zone ZONE --type v4-32 --image python:3.11 \
    --storage shared --workdir /mnt/shared/bert \
    -- --config=configs/bert_lamb.py:paper

Needs xpk (pip install xpk). Environment: DRY_RUN=1 as --dry_run, which prints
every command and runs none.
END
}

fail() {
  echo "gke_xpk.sh: $1; see launch/gke_xpk.sh --help" >&2
  exit 2
}

verb='' name='' cluster='' project='' zone='' type='' image='' workdir=''
storage='' reservation='' spot=''
slices=1 restarts=10 grace=120 dry_run=${DRY_RUN:-}
while (($#)); do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --name | --cluster | --project | --zone | --type | --image | --workdir | \
      --slices | --restarts | --storage | --grace | --reservation)
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
  create | tail | list | delete) ;;
  '') fail 'a command is missing: create, tail, list or delete' ;;
  *) fail "unknown command $verb" ;;
esac
need() {
  local option
  for option; do
    [[ -n ${!option} ]] || fail "$verb needs --$option"
  done
}
need cluster project zone
[[ $verb == list ]] || need name
[[ $verb == create ]] || (($# == 0)) || fail "$verb takes nothing after --"
[[ $slices =~ ^[1-9][0-9]*$ ]] || fail "--slices must be at least 1, not '$slices'"
[[ $restarts =~ ^[0-9]+$ ]] || fail "--restarts must be a number, not '$restarts'"
[[ $grace =~ ^[0-9]+$ ]] || fail "--grace must be seconds, not '$grace'"
[[ -z $spot || -z $reservation ]] || fail 'either --spot or --reservation'

do_it() {
  if [[ -n $dry_run ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

where=(--cluster "$cluster" --project "$project" --zone "$zone")

case $verb in
  create)
    need type image workdir
    (($#)) || fail 'create needs the options of jaxlab.main after --'
    command=(
      launch/run.sh --report "$workdir/report.html" --
      python3 -m jaxlab.main "$@" --distributed --workdir="$workdir"
    )
    printf -v quoted '%q ' "${command[@]}"
    do_it xpk workload create --workload "$name" "${where[@]}" \
      --tpu-type="$type" --num-slices="$slices" --max-restarts="$restarts" \
      --base-docker-image="$image" --script-dir=. \
      --termination-grace-period-seconds="$grace" \
      ${storage:+--storage="$storage"} ${spot:+--spot} \
      ${reservation:+--reservation="$reservation"} \
      --command "pip install -q -e '.[run]' 'jax[tpu]' && $quoted"
    ;;
  tail)
    do_it kubectl logs --follow --tail=100 --selector \
      "jobset.sigs.k8s.io/jobset-name=$name,batch.kubernetes.io/job-completion-index=0"
    ;;
  list) do_it xpk workload list "${where[@]}" ;;
  delete) do_it xpk workload delete --workload "$name" "${where[@]}" ;;
esac
