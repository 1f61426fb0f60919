"""What torchrun starts in each process, with the arguments of `lambda-dpo-factory train`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # A script's folder comes first in sys.path: modules here must not stand before others of their names.
    sys.path = [folder for folder in sys.path if Path(folder).resolve() != Path(__file__).resolve().parent]
    from lambda_dpo.factory.cli import run

    run()
