#!/usr/bin/env bash
# Does Flashlight run on this GPU, is it right, and how fast is it?  Needs no network and no install, only the torch,
# Triton and pytest that are there; under 10 minutes, results as they come:
#
#     examples/gpu_check.sh --out out/gpu --seconds 540        (--help for more)
set -uo pipefail
top="$(cd "$(dirname "$0")/.." && pwd)"
export PYTHONPATH="$top${PYTHONPATH:+:$PYTHONPATH}"
for python in "${PYTHON:-python3}" python; do
    "$python" -c "import importlib.util as u; exit(not u.find_spec('torch'))" 2>/dev/null && break
done
cd "$top" && exec "$python" -m bench.gpu "$@"
