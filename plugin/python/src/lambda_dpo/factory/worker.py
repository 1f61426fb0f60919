"""Script that torchrun starts in each process, with the arguments of `lambda-dpo-factory train`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Python puts a script's folder first in sys.path; modules in it must not shadow others with the same name.
    sys.path = [folder for folder in sys.path if Path(folder).resolve() != Path(__file__).resolve().parent]
    from lambda_dpo.factory.cli import run

    run()
