#!/usr/bin/env bash
# A Ray cluster for `dagr score --engine ray`, of machines that are reached by name.
#
#   launch/ray.sh head                    on the first machine
#   launch/ray.sh join FIRST:6379         on every other one
#   dagr score PATH … --engine ray --ray-address auto --workers N     on any of them
#   launch/ray.sh stop                    on all of them, at the end
#
# Expects: the environment in which dagr_jax and its extra `ray` are installed, active, the same
# versions everywhere; the videos under the same paths everywhere. The checkpoint is needed where
# the command runs: the weights go to the others through Ray. Ports between the machines must be
# open; Ray takes any command from who reaches them, so let no one else.
#
# N workers take a GPU each, or share the cores and stay within one machine; 3 GB of memory each.
#
# Exercised: a head alone, on processors. Not exercised: several machines, GPUs.
set -euo pipefail

export RAY_USAGE_STATS_ENABLED=0
case "${1-}" in
  head) exec ray start --head --port=6379 --include-dashboard=false --object-store-memory=$((1 << 30)) ;;
  join) exec ray start --address="${2:?FIRST:6379, as the first machine is reached}" \
    --object-store-memory=$((1 << 30)) ;;
  stop) exec ray stop ;;
  *)
    echo "usage: $0 head | join FIRST:6379 | stop" >&2
    exit 2
    ;;
esac
