#!/usr/bin/env bash
# One recipe on Slurm: a Ray cluster for one job, gone with it.
#
#   sbatch cluster/slurm.sh configs/crafter/small.yaml --runs /srv/dreamer_ray/runs [path=value ...]     in the root of the clone
#
# Once, on a file system that all nodes share: python3 -m venv ~/venv && ~/venv/bin/pip install -c docker/constraints-cpu.txt .
# (it pins ray==2.60.0); --runs must lie on such a file system too. `dreamer-ray submit` is not needed: sbatch is the queue. Before its
# time limit the job stops and puts itself back into the queue; preempted, it is put back by Slurm. Again started, also by the same
# sbatch, it goes on from the last checkpoints.
#
# The first node is Ray's head and works too (learners); the others declare room for replicas, which cluster.dedicated_replicas: true
# keeps to them. The dashboard listens on the head's loopback (ssh -L 8265:127.0.0.1:8265 HEAD); the rest listens on the addresses of
# the nodes and asks for a token that is drawn for this job and lives in its environment only.
#
# CHANGE: what to ask Slurm for (of every node alike; --time well above the 300 s before its end at which the job stops).
#SBATCH --job-name=dreamer-ray
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
set -euo pipefail

venv=${DREAMER_RAY_VENV:-$HOME/venv}         # CHANGE
replicas=${DREAMER_RAY_REPLICAS:-2}          # CHANGE: room on a node, such as its GPUs divided by cluster.gpus_per_replica
port=${DREAMER_RAY_PORT:-6379}
recipe=${1:?usage: sbatch cluster/slurm.sh RECIPE [--runs DIR] [path=value ...]}
shift

export PATH="$venv/bin:$PATH" RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head --lines=1)
address=$(hostname --all-ip-addresses | cut --delimiter=' ' --fields=1):$port
others=$((SLURM_JOB_NUM_NODES - 1))
temporary=/tmp/ray-$SLURM_JOB_ID

trap 'jobs -p | xargs --no-run-if-empty kill 2> /dev/null; wait' EXIT
again=false # set by the signal that announces the time limit
trap 'again=true' USR1

# srun does not take --cpus-per-task over from sbatch (since Slurm 22.05).
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
srun --nodes=1 --ntasks=1 --nodelist="$head" \
  ray start --head --block --node-ip-address="${address%:*}" --port="$port" --dashboard-host=127.0.0.1 --temp-dir="$temporary" &
timeout 300 bash -c "until ray health-check --address $address > /dev/null 2>&1; do sleep 1; done" \
  || { echo "error: the head at $address did not answer within 300 s; its messages are above" >&2; exit 1; }
if ((others > 0)); then
  srun --nodes="$others" --ntasks="$others" --exclude="$head" \
    ray start --block --address="$address" --resources="{\"replica\": $replicas}" --temp-dir="$temporary" &
fi

# A recipe is refused where the cluster has too little for it: all nodes must be there first.
timeout 300 python - "$address" "$SLURM_JOB_NUM_NODES" << 'PYTHON' || { echo "error: not all nodes joined within 300 s" >&2; exit 1; }
import sys
import time

import ray

ray.init(address=sys.argv[1], log_to_driver=False)
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]):
    time.sleep(1)
PYTHON

RAY_ADDRESS=$address dreamer-ray run "$recipe" "$@" &
run=$!
trap 'again=true; kill -TERM "$run"' USR1
trap 'kill -TERM "$run"' TERM
if $again; then kill -TERM "$run"; fi
code=0
wait "$run" || code=$?
trap '' USR1 TERM
if kill -0 "$run" 2> /dev/null; then # a signal ended that wait, not the run
  code=0
  wait "$run" || code=$?
fi
if $again && ((code != 0)); then
  scontrol requeue "$SLURM_JOB_ID"
elif ((code == 0)); then # after a failure Ray's logs stay on the nodes
  jobs -p | xargs --no-run-if-empty kill
  wait
  srun --ntasks="$SLURM_JOB_NUM_NODES" rm --recursive --force "$temporary"
fi
exit "$code"
