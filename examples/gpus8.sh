#!/usr/bin/env bash
# 8 GPUs: two stages, each on two GPUs with Ulysses, for each guidance branch. More flags can follow; the last of two counts.
set -euo pipefail

xdit-dualparal --model Wan2.1-T2V-1.3B --dualparal_degree 2 --ulysses_degree 2 --use_cfg_parallel --num_frames 801 --prompt "a ship in a storm" --output_directory out "$@"
