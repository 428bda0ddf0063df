#!/bin/sh
# The whole recipe on one node of 8 GPUs: a network of depth 24 (width 768; 0.4B parameters, 0.14B active at 32k entries).
#   runs/node.sh DATA TOKENIZER [OUT] [TOKENS]
# DATA: token shards of `k2 train prepare`; TOKENIZER: folder of tiktoken.model. GPUS=2 DEVICE=cpu DEPTH=2 tries it anywhere.
# The same command goes on where it was stopped, also with another number of GPUs as long as PARTS divides among them.
set -eu
cd "$(dirname "$0")/.."
data=${1:?give the folder of the token shards} tokenizer=${2:?give the folder of the tokenizer}
out=${3:-out/node} tokens=${4:-2B} gpus=${GPUS:-8}

# On several nodes give each of them --nnodes, --node-rank and --rdzv-endpoint in place of --standalone; the folder of
# the run must be one that all of them see.
exec .venv/bin/torchrun --standalone --nproc-per-node "$gpus" -m openk2 train pretrain \
  --data "$data" --tokenizer "$tokenizer" --out "$out" --tokens "$tokens" --device "${DEVICE:-auto}" \
  --depth "${DEPTH:-24}" --parts "${PARTS:-$gpus}" --expert-ranks "${EXPERT_RANKS:-$gpus}" --recompute "${RECOMPUTE:-1}"
