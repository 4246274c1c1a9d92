#!/usr/bin/env bash
# Train on one strip of a Xenium section, score the cells of the other: every model, three seeds, one encoder.
# Usage: examples/pancreas.sh DATA PROJECT [ENCODER]     DATA holds P1/ and P2/ with slide, cells and cell counts
set -euo pipefail
data=$1 encoder=${3:-imagenet-lite0}
export DS2C_PROJECT=$2

for sample in P1 P2; do
  ds2c prepare "$data/$sample/slide.tif" --cells "$data/$sample/cells.parquet" \
    --counts "$data/$sample/cell_counts.h5ad" --sample $sample --donor pancreas --cohort pancreas --membership centroid
done
ds2c embed --encoder "$encoder"
checkpoints=()
for seed in 0 1 2; do
  for model in mlp paper additive cell-supervised; do
    name=$encoder-$model-s$seed
    ds2c train --train P1 --model $model --seed $seed --encoder "$encoder" -o "$name"
    checkpoints+=(--checkpoint "$name")
  done
done
ds2c evaluate "${checkpoints[@]}" --name "$encoder"
