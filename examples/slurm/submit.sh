#!/usr/bin/env bash
# Raw slides to virtual cells on SLURM: prepare (a task a slide), embed (an array), train, predict (a task a slide).
#
# Usage: examples/slurm/submit.sh samples.csv PROJECT [ENCODER] [SHARDS]
#
# samples.csv has a header and a row a slide: sample,slide,cells,counts,donor,cohort. Paths are relative to it; `counts`
# is empty for a slide that is only predicted. PROJECT and DS2C_CACHE (the user's cache directory, if not set) lie on a
# file system that all nodes see. `ds2c` is on the PATH here, and so on the nodes: sbatch hands the environment on.
# Options for all jobs, such as a partition, go into SBATCH_PARTITION, SBATCH_ACCOUNT, ... (man sbatch).
set -euo pipefail
here=$(dirname "$(realpath "$0")")
SHEET=$(realpath "$1")
DS2C_PROJECT=$(realpath -m "$2")
export SHEET DS2C_PROJECT ENCODER=${3:-phikon-v2}
shards=${4:-4}
slides=$(($(grep -c . "$SHEET") - 1))

mkdir -p "$DS2C_PROJECT/logs"
submit() { sbatch --parsable --kill-on-invalid-dep=yes --output="$DS2C_PROJECT/logs/%x-%A-%a.log" "$@"; }
prepare=$(submit --array="0-$((slides - 1))" "$here/prepare.sbatch")
embed=$(submit --array="0-$((shards - 1))" --dependency="afterok:$prepare" "$here/embed.sbatch")
train=$(submit --dependency="afterok:$embed" "$here/train.sbatch")
predict=$(submit --array="0-$((slides - 1))" --dependency="afterok:$train" "$here/predict.sbatch")
echo "prepare $prepare, embed $embed, train $train, predict $predict; logs in $DS2C_PROJECT/logs" >&2
echo "$predict"
