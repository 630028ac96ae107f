#!/usr/bin/env bash
# Runs a configuration on this machine.
#
#   launch/local.sh CONFIG WORKDIR [ARGUMENT …]
#   PROCESSES=2 launch/local.sh CONFIG WORKDIR [ARGUMENT …]
#   APART=1 PROCESSES=2 launch/local.sh CONFIG WORKDIR [ARGUMENT …]
#
# Requirements: the environment with dagr_jax is active; the script is started in the repository.
#
# By default one process uses all visible GPUs (CUDA_VISIBLE_DEVICES selects them). This is enough
# on one machine. With PROCESSES=N, process I uses only GPU I. Use this on machines where one process
# cannot feed all GPUs, or to test a multi-machine run on one machine. Without a GPU, each process
# uses the CPU. The batch sizes must be multiples of the number of GPUs. With APART=1, the processes
# do not form one distributed run; each takes its own runs of a sweep (launch/sweep.sh).
#
# The script passes Ctrl-C and SIGTERM on. The run then saves its current step and exits with 130.
# Run the same command again to continue, with any number of processes. Otherwise the exit code is
# 0, or that of the last process that failed.
#
# Tested: two processes on CPUs. Not tested: GPUs.
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
# Background jobs of the shell ignore Ctrl-C, so send them SIGTERM.
trap 'kill -TERM "${running[@]}" 2>/dev/null || true' INT TERM
for ((i = 0; i < processes; i++)); do
  CUDA_VISIBLE_DEVICES=$i "${command[@]}" ${together[@]+"${together[@]}" "--process_id=$i"} &
  running+=($!)
done

code=0
for process in "${running[@]}"; do
  status=0
  wait "$process" || status=$?
  while kill -0 "$process" 2>/dev/null; do # a signal interrupts `wait`
    status=0
    wait "$process" || status=$?
  done
  if ((status)); then
    code=$status
  fi
done
exit "$code"
