"""Builds liblambda_dpo.so with cargo, against the torch of the environment, and puts it into the package."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

WORKSPACE = Path(__file__).resolve().parents[2]
TORCH_VERSION = "2.11.0"  # tch's: ARCHITECTURE.md, "Pins"


def find_torch():
    """Returns the torch folder of the environment that pip installs into, which an isolated build does not see."""
    find = "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
    # -I ignores the environment variables with which pip isolates the build.
    found = subprocess.run([sys.executable, "-I", "-c", find], capture_output=True, text=True, check=True).stdout.strip()
    if not found:
        raise SystemExit(f"lambda_dpo is built against torch: install torch=={TORCH_VERSION} here first.")
    version = {}
    exec(Path(found, "version.py").read_text(), version)
    if version["__version__"].split("+")[0] != TORCH_VERSION:
        raise SystemExit(f"lambda_dpo needs torch {TORCH_VERSION}, but this is torch {version['__version__']}.")
    return Path(found).resolve()


def build_library():
    """Builds the library, unless LAMBDA_DPO_LIBRARY names one that was built for this torch; returns its path."""
    if built := os.environ.get("LAMBDA_DPO_LIBRARY"):
        find_torch()
        return Path(built)
    if not (WORKSPACE / "Cargo.toml").exists():
        raise SystemExit("lambda_dpo is built inside its repository: run `pip install ./plugin/python` in a checkout.")
    if shutil.which("cargo") is None:
        raise SystemExit("lambda_dpo is built with cargo (Rust 1.92 or newer): get it from rustup, then open a new shell.")
    torch = find_torch()
    target = Path(os.environ.get("CARGO_TARGET_DIR", WORKSPACE / "target"))
    command = ["cargo", "build", "--release", "--locked", "-p", "lambda-dpo-cdylib"]
    if (WORKSPACE / ".libtorch").resolve() != torch:
        # The checkout's own build folder is for the torch in its .venv; use a separate one for another torch.
        target = target / "python"
        command += ["--target-dir", str(target)]
        # Overrides .cargo/config.toml key by key, because --config does not accept tables. JSON strings are valid TOML.
        command += ["--config", f"env.LIBTORCH.value={json.dumps(str(torch))}", "--config", "env.LIBTORCH.relative=false"]
    subprocess.run(command, cwd=WORKSPACE, check=True)
    return target / "release" / "liblambda_dpo.so"


class BuildWithLibrary(build_py):
    """Adds the library and the version of its torch to the package."""

    def run(self):
        super().run()
        if self.editable_mode:
            package = Path(__file__).parent / "src" / "lambda_dpo"
        else:
            package = Path(self.build_lib) / "lambda_dpo"
        shutil.copy2(build_library(), package / "liblambda_dpo.so")
        (package / "torch_version").write_text(f"{TORCH_VERSION}\n")


class PlatformWheel(bdist_wheel):
    """Wheel for any Python 3 on this platform, because the library has a C interface."""

    def get_tag(self):
        return ("py3", "none", super().get_tag()[2])


class HasLibrary(Distribution):
    def has_ext_modules(self):
        return True


setup(cmdclass={"build_py": BuildWithLibrary, "bdist_wheel": PlatformWheel}, distclass=HasLibrary)
