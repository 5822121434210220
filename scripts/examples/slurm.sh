#!/usr/bin/env bash
# Trains on two machines of eight GPUs under Slurm:
#   sbatch scripts/examples/slurm.sh RECIPE.toml [key=value ...]
# The run folder must lie on a disk that all machines share. The recipe's train.time_limit, or the
# override below, must end before the job's limit: vidrl then saves a checkpoint and leaves, and the
# same command goes on from this checkpoint.
#SBATCH --job-name=vidrl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
set -euo pipefail

# The first machine of the job is where the processes meet.
hosts="$(scontrol show hostnames "$SLURM_JOB_NODELIST")"
head="${hosts%%$'\n'*}"
# One torchrun on each machine starts one process for each GPU. 84600 s = 23.5 hours.
exec srun torchrun \
  --nnodes "$SLURM_NNODES" \
  --nproc-per-node "$SLURM_GPUS_ON_NODE" \
  --rdzv-id "$SLURM_JOB_ID" \
  --rdzv-backend c10d \
  --rdzv-endpoint "$head:${MASTER_PORT:-29500}" \
  -m vidrl train "$1" --resume train.time_limit=84600 "${@:2}"
