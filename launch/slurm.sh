#!/usr/bin/env bash
# Runs a configuration on several nodes under SLURM.
#
#   sbatch launch/slurm.sh CONFIG WORKDIR [ARGUMENT …]
#
# Requirements: the job is submitted from the repository, and the environment with dagr_jax is
# active (sbatch passes it on). Repository, environment, WORKDIR and data are on a file system that
# all nodes share.
#
# There is one task per GPU. JAX reads the tasks and the address of the first task from SLURM's
# variables. Task I of a node uses the I-th visible GPU, so all tasks of a node must see all its
# GPUs: request --gpus-per-node, not --gpus-per-task. Settings:
#   * nodes and GPUs: --nodes, and the same number for --gpus-per-node and --ntasks-per-node. The
#     batch sizes of the configuration must be multiples of nodes × GPUs;
#   * one task per node with all its GPUs: --ntasks-per-node=1, and uncomment JAX_LOCAL_DEVICE_IDS;
#   * --cpus-per-task: each task has config.workers reader processes and needs two more cores.
#
# SLURM sends SIGTERM two minutes before the time limit. The run then saves its current step and the
# job ends with 130. Submit the same job again to continue, with any number of nodes.
#
# Tested: JAX's detection, with SLURM's variables set for two processes on one machine. Not tested:
# SLURM itself, GPUs.
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
# Proxies can prevent the processes from reaching each other.
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY all_proxy ALL_PROXY
# export JAX_LOCAL_DEVICE_IDS=0,1,2,3

# srun does not inherit the number of cores from sbatch.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  python -m dagr_jax.main --distributed "--config=$1" "--workdir=$2" "${@:3}"
