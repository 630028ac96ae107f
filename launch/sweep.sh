#!/usr/bin/env bash
# Runs a sweep (configs/ablation.py) in several processes, which divide its runs among themselves.
#
#   PROCESSES=2 launch/sweep.sh CONFIG WORKDIR [ARGUMENT …]
#   sbatch --array=0-9 launch/sweep.sh CONFIG WORKDIR [ARGUMENT …]
#
# Requirements: the environment with dagr_jax is active; the script is started in the repository.
# Under SLURM, repository, environment and WORKDIR are on a file system that all nodes share and that
# supports file locks (flock): NFS 4, or Lustre mounted with -o flock.
#
# On one machine, process I uses GPU I; without GPUs, each process uses the CPU. Under SLURM, each
# task of the array is one process with one GPU. Tasks may start and end at any time. The processes
# are independent: if one dies, another process takes over its run. Run the same command again to
# make the missing runs.
#
# Tested: two processes on one machine, one of them killed. Not tested: SLURM, GPUs.
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
