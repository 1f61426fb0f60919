#!/usr/bin/env bash
# Drives the page of `lambda-dpo serve` in a browser (tests/python/web) and leaves screenshots of its states in
# target/web. The browser is Debian's chromium, or the one that CHROMIUM names; nothing is downloaded but the packages
# of ci/requirements/web.txt.
set -euo pipefail
cd "$(dirname "$0")/.."

export CHROMIUM=${CHROMIUM:-/usr/bin/chromium}
if [ ! -x "$CHROMIUM" ]; then
  echo "There is no browser at $CHROMIUM: install it (Debian: apt install chromium) or set CHROMIUM to a Chromium or" \
    "Chrome that is on this machine, then run the command again." >&2
  exit 1
fi
if ! command -v curl >/dev/null; then
  echo "The page's copied commands are run, which needs curl: install it (Debian, Ubuntu: apt install curl)." >&2
  exit 1
fi
ci/build.sh
ci/setup_python.sh web

rm -rf target/web
# The settings in tests/python/conftest.py are for tests with torch.
PYTHONDONTWRITEBYTECODE=1 .venvs/web/bin/python -m pytest -q -p no:cacheprovider --confcutdir=tests/python/web \
  tests/python/web
