#!/usr/bin/env bash
# Two nodes with 4 GPUs each: a stage on each node, so that only hidden states cross the network, and Ulysses inside.
# On each node: bash examples/two_nodes.sh NODE_RANK ADDRESS_OF_NODE_0 [more flags]
set -euo pipefail

xdit-dualparal --nnodes 2 --node_rank "$1" --master_addr "$2" --model Wan2.1-T2V-1.3B --dualparal_degree 2 \
  --ulysses_degree 4 --num_frames 801 --prompt "a ship in a storm" --output_directory out "${@:3}"
