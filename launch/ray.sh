#!/usr/bin/env bash
# Starts a Ray cluster for `dagr score --engine ray`, on machines that reach each other by name.
#
#   launch/ray.sh head                    on the first machine
#   launch/ray.sh join FIRST:6379         on every other machine
#   dagr score PATH … --engine ray --ray-address auto --workers N     on any machine
#   launch/ray.sh stop                    on all machines, at the end
#
# Requirements: the environment with dagr_jax and its extra `ray` is active, with the same versions
# on all machines. All machines see the videos at the same paths. Only the machine that runs the
# command needs the checkpoint; Ray sends the weights to the others. The ports between the machines
# must be open. Ray executes any command from anyone who can reach these ports, so close them to
# everyone else.
#
# Each of the N workers uses one GPU. Without GPUs, the workers share the cores and stay on one
# machine. Each worker needs 3 GB of memory.
#
# Tested: a head alone, on a CPU. Not tested: several machines, GPUs.
set -euo pipefail

export RAY_USAGE_STATS_ENABLED=0
case "${1-}" in
  head) exec ray start --head --port=6379 --include-dashboard=false --object-store-memory=$((1 << 30)) ;;
  join) exec ray start --address="${2:?give FIRST:6379, the address of the first machine}" \
    --object-store-memory=$((1 << 30)) ;;
  stop) exec ray stop ;;
  *)
    echo "usage: $0 head | join FIRST:6379 | stop" >&2
    exit 2
    ;;
esac
