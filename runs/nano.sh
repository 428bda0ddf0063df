#!/bin/sh
# The embedded model, from source files to INT4 weights, on two CPU cores (about two hours):
#   OPENK2_DATA=/path/to/data runs/nano.sh [OUT]
# Every step goes on where it was stopped. docs/recipe.md says which files the data folder holds, and why each step is there.
set -eu
cd "$(dirname "$0")/.."
out=${1:-out/nano}
data=${OPENK2_DATA:?set OPENK2_DATA to the folder of the source files}
k2() { .venv/bin/python -m openk2.cli.main "$@"; }

[ -f "$out/tokenizer/tiktoken.model" ] || .venv/bin/python -m openk2.synth.tokenizer --data "$data" --out "$out/tokenizer"
k2 synth trajectories --data "$data" --tokenizer "$out/tokenizer" --out "$out/warm-data" --mix warm --count 14000 --seed 100
k2 synth trajectories --data "$data" --tokenizer "$out/tokenizer" --out "$out/data" --mix nano --count 60000 --seed 1
k2 train sft --data "$out/warm-data" --tokenizer "$out/tokenizer" --out "$out/warm" --depth 8 --tokens 2.2M --batch 4096 --lr 8e-3 --warmup 0.05 --decay 0 --qat-fraction 0
k2 train sft --data "$out/data" --tokenizer "$out/tokenizer" --init "$out/warm" --out "$out/main" --tokens 20M --batch 8192 --lr 8e-3
k2 model export "$out/main" "$out/model" --int4
k2 eval all --model "$out/model" --data "$data" --out "$out/eval"
