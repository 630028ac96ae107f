#!/usr/bin/env bash
# A run on several nodes under SLURM.
#
#   sbatch launch/slurm.sh CONFIG WORKDIR [ARGUMENT …]
#
# Expects: submitted from the repository, with the environment in which dagr_jax is installed,
# active (sbatch passes it on); repository, environment, WORKDIR and data on a file system that all
# nodes share.
#
# One task a GPU: JAX finds the tasks and the address of the first by SLURM's variables, and task I
# of a node takes GPU I of those that it sees. So all tasks of a node must see all its GPUs: ask for
# --gpus-per-node, not for --gpus-per-task. To change:
#   * nodes and GPUs: --nodes, and --gpus-per-node with --ntasks-per-node, the same number;
#     the batch sizes of the configuration must divide over nodes × GPUs;
#   * one task a node with all its GPUs: --ntasks-per-node=1, and uncomment JAX_LOCAL_DEVICE_IDS;
#   * --cpus-per-task: config.workers processes a task decode, and the task itself needs two more.
#
# SIGTERM, two minutes before the time is over, saves the step and ends the job with 130; the same
# sbatch goes on from there, with any number of nodes.
#
# Exercised: JAX's detection, by setting SLURM's variables for two processes on one machine. Not
# exercised: SLURM itself, GPUs.
#SBATCH --job-name=dagr
#SBATCH --nodes=2
#SBATCH --gpus-per-node=4
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=6
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --output=dagr-%j.log
set -euo pipefail

if (($# < 2)); then
  echo "usage: sbatch launch/slurm.sh CONFIG WORKDIR [ARGUMENT …]" >&2
  exit 2
fi
# Proxies can keep the processes from reaching each other.
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY all_proxy ALL_PROXY
# export JAX_LOCAL_DEVICE_IDS=0,1,2,3

# srun does not take the number of cores over from sbatch by itself.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  python -m dagr_jax.main --distributed "--config=$1" "--workdir=$2" "${@:3}"
