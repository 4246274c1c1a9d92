#!/usr/bin/env bash
# Legacy Spatial Transcriptomics without a segmentation: pseudo-cells of 20 um, trained on C2 to C4, scored on C5's spots.
# Usage: examples/her2st.sh DATA PROJECT [ENCODER]     DATA holds C2/ to C5/ with slide, spots and counts
set -euo pipefail
data=$1 encoder=${3:-imagenet-lite0}
export DS2C_PROJECT=$2

for sample in C2 C3 C4 C5; do
  ds2c prepare "$data/$sample/slide.jpg" --cells grid:20 --spots "$data/$sample/spots.tsv" \
    --counts "$data/$sample/counts.tsv.gz" --sample $sample --donor C --cohort her2st --mpp 0.688 --spot-um 100 \
    --membership centroid
done
ds2c embed --encoder "$encoder"
checkpoints=()
for seed in 0 1 2; do
  for model in mlp paper additive; do
    name=$encoder-$model-s$seed
    ds2c train --train C2,C3,C4 --model $model --seed $seed --encoder "$encoder" --genes 1000 -o "$name"
    checkpoints+=(--checkpoint "$name")
  done
done
ds2c evaluate "${checkpoints[@]}" --name "$encoder"
