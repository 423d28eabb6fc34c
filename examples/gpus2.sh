#!/usr/bin/env bash
# 2 GPUs: two stages. More flags can follow; the last of two counts.
set -euo pipefail

xdit-dualparal --model Wan2.1-T2V-1.3B --dualparal_degree 2 --num_frames 801 --prompt "a ship in a storm" --output_directory out "$@"
