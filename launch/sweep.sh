#!/usr/bin/env bash
# A sweep (configs/ablation.py): the same command in several processes, which divide its runs.
#
#   PROCESSES=2 launch/sweep.sh CONFIG WORKDIR [ARGUMENT …]
#   sbatch --array=0-9 launch/sweep.sh CONFIG WORKDIR [ARGUMENT …]
#
# Expects: the environment in which dagr_jax is installed, active; started in the repository. Under
# SLURM repository, environment and WORKDIR on a file system that all nodes share and that knows
# file locks (flock): NFS 4, Lustre mounted with -o flock.
#
# On one machine process I takes GPU I; without GPUs each computes on the processor. Under SLURM
# each task of the array is a process of its own, with one GPU; tasks may begin and end at any time.
# The processes need nothing of each other: one that dies leaves its run to the next that looks, and
# the same command goes on with what is missing.
#
# Exercised: two processes on one machine, one of them killed. Not exercised: SLURM, GPUs.
#SBATCH --job-name=dagr-sweep
#SBATCH --gpus=1
#SBATCH --cpus-per-task=6
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --output=dagr-sweep-%A-%a.log
set -euo pipefail

if (($# < 2)); then
  echo "usage: [PROCESSES=N] $0 CONFIG WORKDIR [ARGUMENT …]" >&2
  exit 2
fi
if [[ -n ${SLURM_ARRAY_TASK_ID:-} ]]; then
  exec python -m dagr_jax.main "--config=$1" "--workdir=$2" "${@:3}"
fi
APART=1 exec "$(dirname "$0")/local.sh" "$@"
