#!/usr/bin/env bash
# Finds Python and starts the viewer of training logs, which has the menu.
set -u
here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)" || exit 2

# The run of the current folder if there is one or an option was given, else the one beside this file.
if [ $# -eq 0 ] && [ ! -d lora_output ] && [ ! -f lorasmith.toml ]; then
    cd -- "$here" || exit 2
fi

for python in \
    "${VIRTUAL_ENV:-/nowhere}/bin/python" "$here/.venv/bin/python" "$here/venv/bin/python" \
    "${CONDA_PREFIX:-/nowhere}/bin/python" python3 python; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        exec "$python" "$here/check_training_logs.py" --menu "$@"
    fi
done
echo "No Python 3.11 or newer was found: https://www.python.org/downloads/" >&2
exit 2
