#!/bin/sh
# The embedded model, from source files to INT4 weights, on two CPU cores (under three hours):
#   OPENK2_DATA=/path/to/data runs/nano.sh [OUT]
# Every step goes on where it was stopped. docs/recipe.md says which files the data folder holds and what each step teaches.
set -eu
cd "$(dirname "$0")/.."
out=${1:-out/nano}
data=${OPENK2_DATA:?set OPENK2_DATA to the folder of the source files}
k2() { .venv/bin/python -m openk2 "$@"; }
train() { k2 train sft --tokenizer "$out/tokenizer" --parts 2 --threads 2 --seed 0 "$@"; }

[ -f "$out/corpus.txt" ] || k2 synth corpus --data "$data" --out "$out/corpus.txt"
[ -f "$out/tokenizer/tiktoken.model" ] || k2 train tokenizer "$out/corpus.txt" --vocab-size 6144 --out "$out/tokenizer"

# 1. Copying: attention starts as a copying circuit and learns to copy and to recall any token (three minutes).
k2 synth copying --tokenizer "$out/tokenizer" --out "$out/copying" --tokens 1600000 --seed 0
train --data "$out/copying" --out "$out/stage1" --depth 8 --mimetic --tokens 1.6M --max-steps 158 --batch 4096 --lr 2e-3 --warmup 0.03 --decay 0 --qat-fraction 0

# 2. Trajectories: executed searches and computations, with copying beside them (an hour).
k2 synth trajectories --data "$data" --tokenizer "$out/tokenizer" --out "$out/trajectories2" --count 60000 --seed 1
k2 synth copying --tokenizer "$out/tokenizer" --out "$out/copying2" --tokens 1600000 --seed 4 --few 0.4
train --data "$out/trajectories2:1" --data "$out/copying2:0.22" --init "$out/stage1" --out "$out/stage2" --tokens 14M --batch 8192 --lr 4e-3 --warmup 0.01

# 3. New ones, at a rate that falls to nothing, the last part through INT4 (95 minutes).
k2 synth trajectories --data "$data" --tokenizer "$out/tokenizer" --out "$out/trajectories3" --count 42000 --seed 10
k2 synth trajectories --data "$data" --tokenizer "$out/tokenizer" --out "$out/trajectories3" --count 42000 --seed 11
k2 synth copying --tokenizer "$out/tokenizer" --out "$out/copying3" --tokens 1600000 --seed 5 --few 0.4
train --data "$out/trajectories3:1" --data "$out/copying3:0.22" --init "$out/stage2" --out "$out/stage3" --tokens 21.3M --batch 8192 --lr 4e-3 --warmup 0.02 --decay 0.6 --qat-fraction 0.4

# 4. Once more at a lower rate, all of it through INT4, a third of the examples as newcomers ask (twenty minutes).
k2 synth trajectories --data "$data" --tokenizer "$out/tokenizer" --out "$out/trajectories4" --count 20000 --seed 20
k2 synth trajectories --data "$data" --tokenizer "$out/tokenizer" --out "$out/first4" --count 12000 --seed 22 --kinds sum,short,casual
k2 synth copying --tokenizer "$out/tokenizer" --out "$out/copying4" --tokens 1200000 --seed 6 --few 0.4
train --data "$out/trajectories4:1" --data "$out/first4:0.6" --data "$out/copying4:0.2" --init "$out/stage3" --out "$out/stage4" --tokens 7M --batch 8192 --lr 1.5e-3 --warmup 0.04 --decay 0.7 --qat-fraction 1

k2 model export "$out/stage4" "$out/model" --tokenizer "$out/tokenizer" --profile openk2/weights/nano/openk2.json
k2 train report "$out/stage1" "$out/stage2" "$out/stage3" "$out/stage4" --out "$out/report.html"
k2 eval all --model "$out/model" --data "$data" --out "$out/eval"
