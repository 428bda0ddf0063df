#!/bin/sh
# A small base model by Kimi K2's whole recipe: stable rate and decay, annealing, then eight times the context by YaRN.
#   OPENK2_DATA=/path/to/data runs/pretrain.sh [OUT [TOKENS [LONG]]]
# 21M tokens need half an hour on one idle core. Every step goes on where it was stopped. docs/pretraining.md says what it shows.
set -eu
cd "$(dirname "$0")/.."
out=${1:-out/pretrain}
tokens=${2:-21M} long=${3:-1M}
data=${OPENK2_DATA:?set OPENK2_DATA to the folder of the source files}
k2() { .venv/bin/python -m openk2 "$@"; }
train() { k2 train pretrain --tokenizer "$out/tokenizer" --threads 1 --parts 1 "$@"; }
synth() { made=$out/$1; shift; ls "$made"/*.idx >/dev/null 2>&1 || k2 synth "$@" --tokenizer "$out/tokenizer" --out "$made"; }

# Text, a tokenizer for it, and its tokens: each stage cuts them to its own context.
[ -f "$out/text/heldout.jsonl" ] || k2 synth text --data "$data" --out "$out/text"
texts="$out/text/web.jsonl $out/text/diary.jsonl $out/text/passages.jsonl $out/text/films.jsonl $out/text/python.jsonl"
[ -f "$out/tokenizer/tiktoken.model" ] || k2 train tokenizer $texts --vocab-size 2048 --out "$out/tokenizer"
k2 train prepare $texts --tokenizer "$out/tokenizer" --out "$out/shards"

# Beside the text: trajectories, random tokens to copy, codes to find again.
k2 synth trajectories --data "$data" --tokenizer "$out/tokenizer" --out "$out/trajectories" --count 3000 --seed 1
synth copying0 copying --tokens 1000000 --seed 0
synth copying copying --tokens 1400000 --seed 4 --few 0.2
synth recall recall $texts --tokens 2200000 --longest 512 --seed 1
synth recall-long recall $texts --tokens 1600000 --longest 4096 --seed 7

# 0. Attention starts as a copying circuit. 1. Pretraining and annealing. 2. The long-context stage.
train --out "$out/zero" --data "$out/copying0" --depth 4 --mimetic --stages pretrain --tokens 1M --batch 4096 --lr 2e-3 --warmup 0.03 --decay 0
train --out "$out/base" --init "$out/zero" --stages pretrain,anneal --tokens "$tokens" --lr 5e-3 \
  --data "$out/shards:70" --data "$out/recall:34" --data "$out/copying:24" --data "$out/copying0:16" --data "$out/trajectories:9"
train --out "$out/base-long" --init "$out/base" --recipe runs/long.toml --tokens "$long" \
  --data "$out/shards:45" --data "$out/recall-long:110" --data "$out/recall:20" --data "$out/trajectories:15"

# What it shows: no spike, even experts, and codes found by place and length before and after.
find() { k2 train retrieval "$@" "$out/text/heldout.jsonl" --tokenizer "$out/tokenizer" --threads 1; }
find "$out/base" --out "$out/before.json"
find "$out/base" --yarn 8 --out "$out/yarn.json"
find "$out/base-long" --out "$out/after.json"
.venv/bin/python runs/pretraining.py "$out/base" "$out/before.json" "$out/yarn.json" "$out/after.json" "$out"
k2 train report "$out/base" "$out/base-long" --out "$out/report.html"
