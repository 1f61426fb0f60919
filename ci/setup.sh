#!/usr/bin/env bash
# Makes .venv from the hash-locked requirements and links .libtorch to the torch in it.
#
#   ci/setup.sh            what the program needs: torch and ONNX Runtime
#   ci/setup.sh --test     what the tests compare with, too: transformers, peft, pytest
#   ci/setup.sh --torch    only the torch package: enough to build, not to run
#   ci/setup.sh --check    only the check of what the machine must have
#   ci/setup.sh --done     only says, by its exit status, whether the program's set-up is done
#
# If it is done already, it prints nothing and takes no time: stamps in .venv hold the hashes of the lock files.
set -euo pipefail
cd "$(dirname "$0")/.."

mode=${1:-}
torch_version=2.11.0
setup_lock=ci/requirements/setup.txt
test_lock=ci/requirements/test.txt

lock_hash() { cat "$@" | sha256sum | cut -d ' ' -f 1; }
# Succeeds if the stamp $1 was written for the lock files that follow, into an environment that still works.
is_done() {
  local stamp=.venv/.lambda-dpo-$1
  shift
  [ -f "$stamp" ] && [ -x .venv/bin/python ] && [ "$(cat "$stamp")" = "$(lock_hash "$@")" ]
}
stamp() {
  local name=$1
  shift
  lock_hash "$@" >".venv/.lambda-dpo-$name"
}
# The folder of the torch in .venv, if there is one.
torch_folder() {
  local folder
  for folder in .venv/lib/python3.*/site-packages/torch; do
    if [ -f "$folder/version.py" ]; then echo "$folder"; fi
  done
}

if [ "$mode" = --done ]; then
  is_done setup "$setup_lock" && [ -n "$(torch_folder)" ] && [ "$(readlink .libtorch || true)" = "$(torch_folder)" ]
  exit
fi

# 1. What the machine must have. Everything missing is named at once.
missing=()
need() { missing+=("  $1"$'\n'"      $2"); }

if ! command -v cargo >/dev/null; then
  need "cargo (Rust 1.92 or newer)" "get it from https://rustup.rs, then open a new shell"
else
  rust_version=$(rustc --version 2>/dev/null | cut -d ' ' -f 2)
  if [ -z "$rust_version" ] || [ "$(printf '%s\n' 1.92 "$rust_version" | sort -V | head -n 1)" != 1.92 ]; then
    need "Rust 1.92 or newer (this is ${rust_version:-not working})" "rustup update stable"
  fi
fi
python=
for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
  if [ -n "$candidate" ] && command -v "$candidate" >/dev/null &&
    "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  need "python3 (3.11 to 3.14)" "Debian, Ubuntu: apt install python3 python3-venv; Fedora: dnf install python3"
elif ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
  need "Python's venv module" "Debian, Ubuntu: apt install python3-venv"
fi
if ! command -v "${CXX:-c++}" >/dev/null; then
  need "a C++ compiler (${CXX:-c++})" "Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++"
fi
if ! command -v "${CC:-cc}" >/dev/null; then
  need "a C compiler (${CC:-cc})" "Debian, Ubuntu: apt install gcc; Fedora: dnf install gcc"
fi
if ! command -v make >/dev/null; then
  need "make" "Debian, Ubuntu: apt install make; Fedora: dnf install make"
fi
if [ "${#missing[@]}" -gt 0 ]; then
  {
    echo "Set-up needs what this machine does not have:"
    printf '%s\n' "${missing[@]}"
    echo "Install it and run the command again."
  } >&2
  exit 1
fi
if [ "$(uname -s)-$(uname -m)" != Linux-x86_64 ]; then
  echo "Only Linux on x86-64 is supported: torch $torch_version is pinned with its hashes for that platform." >&2
  exit 1
fi
if [ "$mode" = --check ]; then exit; fi

# 2. The environment. A half-made one (no stamp, or a Python that is gone) is made again.
# Modules are compiled when they are first imported: doing so for all of torch here takes longer than installing it.
install() {
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes --only-binary :all: "$@" || {
    echo "Could not install the packages of $setup_lock or $test_lock: see pip's message above, then run the command again" \
      "to continue." >&2
    exit 1
  }
}

if ! is_done setup "$setup_lock"; then
  if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    rm -rf .venv
    "$python" -m venv .venv
  fi
  if ! is_done torch "$setup_lock"; then
    echo "Installing torch $torch_version and ONNX Runtime into .venv (about 3 GB the first time) ..."
    rm -f .venv/.lambda-dpo-*
    only_torch=$(mktemp)
    trap 'rm -f "$only_torch"' EXIT
    sed -n '/^torch==/,/[^\\]$/p' "$setup_lock" >"$only_torch"
    install --no-deps -r "$only_torch"
    stamp torch "$setup_lock"
  fi
fi

# 3. The link that .cargo/config.toml points LIBTORCH at. torch-sys checks no version here, so this does.
torch=$(torch_folder)
if [ -z "$torch" ] || ! grep -Eq "^__version__ = '${torch_version//./\\.}(\+[^']*)?'" "$torch/version.py"; then
  echo "The torch in .venv is not $torch_version: remove .venv and run the command again." >&2
  exit 1
fi
if [ "$(readlink .libtorch || true)" != "$torch" ]; then
  rm -rf .libtorch
  ln -s "$torch" .libtorch
fi
if [ "$mode" = --torch ]; then exit; fi

# 4. The other packages.
if ! is_done setup "$setup_lock"; then
  install -r "$setup_lock"
  stamp setup "$setup_lock"
fi
if [ "$mode" = --test ] && ! is_done test "$setup_lock" "$test_lock"; then
  echo "Installing what the tests compare with into .venv ..."
  install -r "$test_lock"
  stamp test "$setup_lock" "$test_lock"
fi
