#!/usr/bin/env bash
# Train on a Slurm cluster, one task per GPU.
#   tools/slurm_train.sh [--requeue] PARTITION JOB_NAME CONFIG WORK_DIR [arguments of tools/train.py]
# Environment: GPUS (all), GPUS_PER_NODE, CPUS_PER_TASK, SRUN_ARGS (more options
# of srun, split at spaces), MASTER_PORT.
# --requeue: as a batch job that goes on from its newest checkpoint whenever it is stopped. GRACE
# (120) seconds before its time is up, Slurm sends SIGUSR1: the training saves and leaves with exit
# code 75, and the job is put into the queue again. SBATCH_ARGS are more options of sbatch, such as
# "--time=04:00:00". The output is WORK_DIR/slurm-<job>.out.
set -euo pipefail

REQUEUE=false
if [ "${1:-}" = --requeue ]; then
    REQUEUE=true
    shift
fi
if [ $# -lt 4 ]; then
    echo "usage: $0 [--requeue] PARTITION JOB_NAME CONFIG WORK_DIR [arguments of tools/train.py]" >&2
    exit 2
fi
PARTITION=$1
JOB_NAME=$2
CONFIG=$3
WORK_DIR=$4
GPUS=${GPUS:-8}
# Fewer GPUS than a node holds must not ask for the whole node.
GPUS_PER_NODE=${GPUS_PER_NODE:-$((GPUS < 8 ? GPUS : 8))}
TOOLS=$(dirname "$0")

RESOURCES=(-p "$PARTITION"
    --job-name="$JOB_NAME"
    --gres="gpu:$GPUS_PER_NODE"
    --ntasks="$GPUS"
    --ntasks-per-node="$GPUS_PER_NODE"
    --cpus-per-task="${CPUS_PER_TASK:-5}")
TRAIN=("${PYTHON:-python}" -u "$TOOLS/train.py" "$CONFIG"
    --work-dir "$WORK_DIR" --launcher slurm "${@:5}")
export PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}"

if [ "$REQUEUE" = false ]; then
    # shellcheck disable=SC2086  # SRUN_ARGS is a list of options
    exec srun "${RESOURCES[@]}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} "${TRAIN[@]}"
fi

mkdir -p "$WORK_DIR"
# shellcheck disable=SC2086  # SRUN_ARGS and SBATCH_ARGS are lists of options
sbatch "${RESOURCES[@]}" --requeue --open-mode=append --signal="USR1@${GRACE:-120}" \
    --output="$WORK_DIR/slurm-%j.out" ${SBATCH_ARGS:-} <<JOB
#!/usr/bin/env bash
srun --cpus-per-task=${CPUS_PER_TASK:-5} --wait=60 ${SRUN_ARGS:-} $(printf "%q " "${TRAIN[@]}") --resume
code=\$?
if [ \$code = 75 ]; then
    scontrol requeue "\$SLURM_JOB_ID"
fi
exit \$code
JOB
