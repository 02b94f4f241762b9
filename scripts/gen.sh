#!/usr/bin/env bash
# `npm run gen`: rewrites the generated parts of the documentation.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/build.sh
exec node dist/scripts/gen-docs.js
