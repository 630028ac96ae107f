#!/usr/bin/env bash
# A run on this machine.
#
#   launch/local.sh CONFIG WORKDIR [ARGUMENT …]
#   PROCESSES=2 launch/local.sh CONFIG WORKDIR [ARGUMENT …]
#   APART=1 PROCESSES=2 launch/local.sh CONFIG WORKDIR [ARGUMENT …]
#
# Expects: the environment in which dagr_jax is installed, active; started in the repository.
#
# One process, the default, uses all GPUs that it sees (CUDA_VISIBLE_DEVICES chooses): nothing more
# is needed on one machine. With PROCESSES=N there are N, of which number I takes GPU I alone: for
# machines where one process cannot feed all GPUs, and to try a run of several machines on one.
# Without a GPU each process computes on the processor. The batch sizes must divide over the GPUs.
# With APART=1 they do not make one run together, but each what it finds to do: launch/sweep.sh.
#
# Ctrl-C and SIGTERM are passed on: the run saves its step and exits with 130, and the same command
# goes on from there, with any number of processes. Otherwise the exit code is 0, or that of the
# last process that failed.
#
# Exercised: two processes on processors. Not exercised: GPUs.
set -euo pipefail

if (($# < 2)); then
  echo "usage: [PROCESSES=N] $0 CONFIG WORKDIR [ARGUMENT …]" >&2
  exit 2
fi
command=(python -m dagr_jax.main "--config=$1" "--workdir=$2" "${@:3}")
processes=${PROCESSES:-1}
if ((processes == 1)); then
  exec "${command[@]}"
fi

together=()
if [[ -z ${APART:-} ]]; then
  port=$(python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
  together=("--coordinator=localhost:$port" "--num_processes=$processes")
fi
running=()
# The shell lets its background jobs ignore Ctrl-C.
trap 'kill -TERM "${running[@]}" 2>/dev/null || true' INT TERM
for ((i = 0; i < processes; i++)); do
  CUDA_VISIBLE_DEVICES=$i "${command[@]}" ${together[@]+"${together[@]}" "--process_id=$i"} &
  running+=($!)
done

code=0
for process in "${running[@]}"; do
  status=0
  wait "$process" || status=$?
  while kill -0 "$process" 2>/dev/null; do # a signal interrupts the waiting
    status=0
    wait "$process" || status=$?
  done
  if ((status)); then
    code=$status
  fi
done
exit "$code"
