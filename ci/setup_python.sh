#!/usr/bin/env bash
# Creates .venvs/NAME from ci/requirements/NAME.txt for tests that need other packages than .venv has:
#
#   trainer    the newest Transformers, PEFT and datasets
#   factory    LLaMA-Factory with the versions it pins
#   serve      OpenAI's client and lm-eval
#   benchmarks lm-eval with Transformers
#   raters     VADER and textstat, which rate texts
#   llama      llama.cpp
#   web        Playwright and axe, which drive and check the page of `serve` in a browser
#
# All use the torch in .venv, with the libraries that come with it and nothing else from .venv, so that torch is on
# disk only once. Does nothing if the environment is up to date: a stamp holds the hash of the lock files.
set -euo pipefail
cd "$(dirname "$0")/.."

name=$1
lock=ci/requirements/$name.txt
folder=.venvs/$name
ci/setup.sh

packages=$(realpath .libtorch/..)
wanted=$(cat ci/requirements/setup.txt "$lock" | sha256sum | cut -d ' ' -f 1)-$packages
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

"$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
  --only-binary :all: -r "$lock" || {
  echo "Could not install $lock: fix the error that pip reports above, then run the command again." >&2
  exit 1
}
printf '%s' "$wanted" >"$folder/.lambda-dpo"
