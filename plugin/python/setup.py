"""Builds liblambda_dpo.so with cargo, against the torch of the environment, and puts it into the package."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

WORKSPACE = Path(__file__).resolve().parents[2]
OLDEST_TORCH = (2, 8)


class Torch:
    """The torch of the environment that pip installs into, which an isolated build does not see."""

    def __init__(self):
        find = "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
        # -I ignores the environment variables with which pip isolates the build.
        command = [sys.executable, "-I", "-c", find]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        oldest = ".".join(map(str, OLDEST_TORCH))
        if not found:
            raise SystemExit(f"lambda_dpo is built against torch: install torch {oldest} or newer here first.")
        self.folder = Path(found).resolve()
        described = {}
        exec(Path(found, "version.py").read_text(), described)
        self.version = described["__version__"].split("+")[0]
        self.release = tuple(map(int, self.version.split(".")[:2]))
        if self.release < OLDEST_TORCH:
            raise SystemExit(f"lambda_dpo needs torch {oldest} or newer, but this is torch {self.version}.")

    def companions(self):
        """Returns bounds for packages of LLaMA-Factory that load libtorch, but do not say which versions they load beside."""
        # torchaudio 2.11.1 asks for torch 2.11 or newer, but loads only from 2.13 on; those before 2.11 name their torch.
        return ["torchaudio==2.11.0"] if self.release in {(2, 11), (2, 12)} else []

    def cxx_flags(self):
        """Returns what the headers need, and the version, so that cargo compiles again if torch was replaced in its place."""
        standard = re.search(r"#error C\+\+(\d+)", (self.folder / "include" / "ATen" / "ATen.h").read_text())
        return [f"-std=c++{standard[1]}", f"-DLAMBDA_DPO_FOR_TORCH={self.version}"]


def build_library(torch):
    """Builds the library, unless LAMBDA_DPO_LIBRARY names one that was built for this torch; returns its path."""
    if built := os.environ.get("LAMBDA_DPO_LIBRARY"):
        return Path(built)
    if not (WORKSPACE / "Cargo.toml").exists():
        raise SystemExit("lambda_dpo is built inside its repository: run `pip install ./plugin/python` in a checkout.")
    if shutil.which("cargo") is None:
        raise SystemExit("lambda_dpo is built with cargo (Rust 1.92 or newer): get it from rustup, then open a new shell.")
    target = Path(os.environ.get("CARGO_TARGET_DIR", WORKSPACE / "target"))
    command = ["cargo", "build", "--release", "--locked", "-p", "lambda-dpo-cdylib"]
    environment = dict(os.environ)
    if (WORKSPACE / ".libtorch").resolve() != torch.folder:
        # The checkout's own build folder is for the torch in its .venv; use a separate one for another torch.
        target = target / "python"
        command += ["--target-dir", str(target)]
        # Overrides .cargo/config.toml key by key, because --config does not accept tables. JSON strings are valid TOML.
        folder = json.dumps(str(torch.folder))
        command += ["--config", f"env.LIBTORCH.value={folder}", "--config", "env.LIBTORCH.relative=false"]
        # cc puts CXXFLAGS after the flags of the build scripts, so this -std is the one that counts.
        environment["CXXFLAGS"] = " ".join([os.environ.get("CXXFLAGS", ""), *torch.cxx_flags()]).strip()
        environment["CXX_OF_TORCH_SYS"] = os.environ.get("CXX", "c++")
        environment["CXX"] = str(Path(__file__).with_name("torch_sys_cxx.py"))
    subprocess.run(command, cwd=WORKSPACE, env=environment, check=True)
    return target / "release" / "liblambda_dpo.so"


class BuildWithLibrary(build_py):
    """Adds the library and the version of its torch to the package."""

    def run(self):
        super().run()
        if self.editable_mode:
            package = Path(__file__).parent / "src" / "lambda_dpo"
        else:
            package = Path(self.build_lib) / "lambda_dpo"
        shutil.copy2(build_library(TORCH), package / "liblambda_dpo.so")
        (package / "torch_version").write_text(f"{TORCH.version}\n")


class PlatformWheel(bdist_wheel):
    """Wheel for any Python 3 on this platform, because the library has a C interface."""

    def get_tag(self):
        return ("py3", "none", super().get_tag()[2])


class HasLibrary(Distribution):
    def has_ext_modules(self):
        return True


TORCH = Torch()

setup(
    cmdclass={"build_py": BuildWithLibrary, "bdist_wheel": PlatformWheel},
    distclass=HasLibrary,
    install_requires=[f"torch=={TORCH.version}"],
    extras_require={
        "trainer": ["transformers>=5.6", "accelerate>=1.11", "datasets>=4.0", "peft>=0.18", "safetensors"],
        "factory": ["llamafactory==0.9.5", *TORCH.companions()],
    },
)
