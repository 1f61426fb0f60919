"""Runs the commands of docs/tutorial.md as they are written there, in a folder of their own, and says how long each took.

    ci/tutorial.sh MODEL [OUT]                    [runs/tutorial]
    TUTORIAL_PROMPTS=10 ci/tutorial.sh MODEL      only with the first prompts, to see that all of it works

What is run are the blocks marked ```sh, by one shell, with MODEL for the tutorial's model.
"""

import os
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def script(page: str) -> str:
    """Returns a shell script of the page's blocks: each is printed, run and timed."""
    lines = ["set -euo pipefail", "TIMEFORMAT='(%0R s)'", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"]
    for block in BLOCK.findall(page):
        lines += ["cat <<'BLOCK'", "", block.rstrip(), "BLOCK", "time {", block.rstrip(), "}"]
    return "\n".join(lines) + "\n"


def main() -> None:
    model, out = sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else ROOT / "runs/tutorial")
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(ROOT / "docs/tutorial", out)
    if num_prompts := os.environ.get("TUTORIAL_PROMPTS"):
        prompts = out / "prompts.jsonl"
        first = prompts.read_text(encoding="utf-8").split("\n")[: int(num_prompts)]
        prompts.write_text("".join(f"{line}\n" for line in first), encoding="utf-8")
    program = Path(os.environ.get("LAMBDA_DPO_PROGRAM", ROOT / "target/release/lambda-dpo")).resolve()
    environment = os.environ | {
        "MODEL": os.path.abspath(model) if Path(model).exists() else model,
        "PATH": f"{program.parent}:{os.environ['PATH']}",
    }
    os.chdir(out)
    sys.stdout.flush()
    os.execvpe("bash", ["bash", "-c", script((ROOT / "docs/tutorial.md").read_text(encoding="utf-8"))], environment)


if __name__ == "__main__":
    main()
