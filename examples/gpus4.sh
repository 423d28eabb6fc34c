#!/usr/bin/env bash
# 4 GPUs: two stages, each on two GPUs with Ulysses. More flags can follow; the last of two counts.
set -euo pipefail

xdit-dualparal --model Wan2.1-T2V-1.3B --dualparal_degree 2 --ulysses_degree 2 --num_frames 801 --prompt "a ship in a storm" --output_directory out "$@"
