#!/usr/bin/env bash
# Train one run on the nodes of a Slurm allocation. Three values are to be filled in, each marked REPLACE.
#   sbatch jobs/slurm.sh
# The same command resumes a run that a time limit, a preemption or a lost node has interrupted (--requeue does so).
#SBATCH --job-name=hbt
#SBATCH --partition=REPLACE
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --output=hbt-%j.log
set -euo pipefail

folder=/REPLACE/hbt           # every node sees it: run.yaml, corpora, and the run's folder
source /REPLACE/venv/bin/activate  # pip install hbt_ray

export RAY_AUTH_MODE=token    # `ray get-auth-token --generate`, once, writes the token to ~/.ray/auth_token
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export RAY_ADDRESS=$head:6379

# Starts Ray on every node, runs the command on the first one, and stops Ray.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" ray symmetric-run --address "$RAY_ADDRESS" --min-nodes "$SLURM_NNODES" \
  --num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "$SLURM_GPUS_ON_NODE" -- \
  hbt train --config "$folder/run.yaml" --out "$folder/runs/train" \
  train.workers=$((SLURM_NNODES * SLURM_GPUS_ON_NODE))
