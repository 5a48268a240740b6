#!/bin/sh
# `make demo`: the whole service on this machine, from nothing to an evaluated model. Everything lies in ./demo.
set -eu

step() { printf '\n\033[1m$ %s\033[0m\n' "$*"; }
[ -t 1 ] || step() { printf '\n$ %s\n' "$*"; }
run() { step "$@"; "$@"; }

# Whatever happens, nothing is left running.
trap 'dljobs down --now >/dev/null 2>&1 || true' EXIT INT TERM

run dljobs up --detach
run dljobs submit lenet --gpus 4 --name demo --follow
run dljobs status
run dljobs eval @
run dljobs plot @ -o "$DLJOBS_HOME/loss.png"
run dljobs export @ -o "$DLJOBS_HOME/lenet.safetensors"
run dljobs down
trap - EXIT
printf '\nThe loss curve is in %s; the weights, for plain PyTorch, in %s.\n' \
    "$DLJOBS_HOME/loss.png" "$DLJOBS_HOME/lenet.safetensors"
printf 'Start it again with: DLJOBS_HOME=%s %s up\n' "$DLJOBS_HOME" "$(command -v dljobs)"
