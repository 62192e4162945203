#!/usr/bin/env bash
# Train with one process per GPU; without a GPU, GPUS processes on the CPU.
#   tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
# Several machines: NNODES, NODE_RANK and MASTER_ADDR on each of them. PORT must
# be free, and differ between two runs on one machine.
# MAX_RESTARTS=3: if a process dies, all of them are started again, up to three times, and go on
# from the newest checkpoint that this run has written. Other machines must reach this one by its
# host name, or by LOCAL_ADDR if that is set.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG GPUS [arguments of tools/train.py]" >&2
    exit 2
fi
CONFIG=$1
GPUS=$2
TOOLS=$(dirname "$0")
NNODES=${NNODES:-1}
MASTER_ADDR=${MASTER_ADDR:-127.0.0.1}
PORT=${PORT:-29500}

if [ "${MAX_RESTARTS:-0}" = 0 ]; then
    RENDEZVOUS=(--node_rank="${NODE_RANK:-0}" --master_addr="$MASTER_ADDR" --master_port="$PORT")
else
    # Only torchrun's c10d rendezvous brings the machines together again after a restart, with a
    # store of its own for each start: in a shared one the addresses of dead processes remain.
    export MLP_BACKBONES_STARTED=${MLP_BACKBONES_STARTED:-$(date +%Y%m%d_%H%M%S)}
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    [ "$NNODES" = 1 ] && LOCAL_ADDR=${LOCAL_ADDR:-127.0.0.1}
    RENDEZVOUS=(--max_restarts="$MAX_RESTARTS" --rdzv_backend=c10d --rdzv_id="$PORT"
        --rdzv_endpoint="$MASTER_ADDR:$PORT" ${LOCAL_ADDR:+--local_addr="$LOCAL_ADDR"})
fi

PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}" \
exec "${PYTHON:-python}" "$TOOLS/torchrun.py" \
    --nnodes="$NNODES" \
    --nproc_per_node="$GPUS" \
    "${RENDEZVOUS[@]}" \
    "$TOOLS/train.py" "$CONFIG" --launcher pytorch "${@:3}"
