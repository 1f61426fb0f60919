"""setup.py builds for the torch of the environment; torch_sys_cxx.py leaves out what that torch lacks, and nothing else."""

import os
import subprocess
import venv
from pathlib import Path

import pytest
import setuptools
from tiny import ROOT

PACKAGE = ROOT / "plugin" / "python"
WRAPPER = PACKAGE / "torch_sys_cxx.py"

# As in torch-sys: a macro around each body, and a header beside the file.
GENERATED = """#include "torch_api_generated.h"

void atg_kept(int *out__, int self) {
  PROTECT(
    out__[0] = torch::kept(self);
  )
}

void atg_gone(int *out__, int self) {
  PROTECT(
    auto outputs__ = torch::gone(self);
    out__[0] = outputs__;
  )
}

int atg_changed(int self) {
  PROTECT(
    return torch::changed(self, self);
  )
  return 0;
}
"""
HEADER = """#define PROTECT(x) { x }
namespace torch { int kept(int); int changed(int); }
extern "C" { void atg_kept(int *, int); void atg_gone(int *, int); int atg_changed(int); }
"""


def compile_with_wrapper(folder, generated, header=HEADER, file="torch_api_generated.cpp"):
    (folder / "libtch").mkdir()
    (folder / "libtch" / "torch_api_generated.h").write_text(header)
    (folder / "libtch" / file).write_text(generated)
    command = [str(WRAPPER), "-O0", "-o", "out.o", "-c", f"libtch/{file}"]
    environment = os.environ | {"CXX_OF_TORCH_SYS": os.environ.get("CXX", "c++")}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)


def symbols(folder):
    listed = subprocess.run(["nm", "out.o"], capture_output=True, text=True, cwd=folder, check=True).stdout
    return {line.split()[-1] for line in listed.splitlines() if " T " in line}


def test_functions_that_torch_lacks_are_left_out(tmp_path):
    done = compile_with_wrapper(tmp_path, GENERATED)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "torch-sys without what this torch lacks: atg_gone, atg_changed\n"
    assert symbols(tmp_path) == {"atg_kept"}


def test_a_file_that_compiles_is_compiled_as_it_is(tmp_path):
    header = HEADER.replace("int changed(int);", "int changed(int, int); int gone(int);")
    done = compile_with_wrapper(tmp_path, GENERATED, header)
    assert (done.returncode, done.stderr) == (0, "")
    assert symbols(tmp_path) == {"atg_kept", "atg_gone", "atg_changed"}
    assert not (tmp_path / "out.cpp").exists()


@pytest.mark.parametrize(
    ("generated", "header", "file"),
    [
        (GENERATED, HEADER + "int wrong = missing;\n", "torch_api_generated.cpp"),
        (GENERATED + "int wrong = missing;\n", HEADER, "torch_api_generated.cpp"),
        (GENERATED, HEADER, "torch_api.cpp"),
    ],
    ids=["in a header", "outside of functions", "in another file"],
)
def test_other_errors_are_errors(tmp_path, generated, header, file):
    done = compile_with_wrapper(tmp_path, generated, header, file)
    assert done.returncode == 1
    assert "error: " in done.stderr and "without what this torch lacks" not in done.stderr
    assert not (tmp_path / "out.o").exists()


def setup(folder, version, *command):
    """Runs setup.py in an environment with a torch of this version, or none."""
    venv.create(folder / "venv", symlinks=True)
    if version:
        torch = next(folder.glob("venv/lib/python3.*/site-packages")) / "torch"
        torch.mkdir()
        (torch / "__init__.py").touch()
        (torch / "version.py").write_text(f"__version__ = '{version}'\n")
    # setup.py looks for torch without PYTHONPATH, as with the variables that pip sets.
    environment = os.environ | {"PYTHONPATH": str(Path(setuptools.__file__).parents[1])}
    done = subprocess.run(
        [folder / "venv" / "bin" / "python", "setup.py", "-q", *command],
        capture_output=True,
        text=True,
        env=environment,
        cwd=PACKAGE,
        check=False,
    )
    return done.returncode, done.stderr.strip()


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (None, "lambda_dpo is built against torch: install torch 2.8 or newer here first."),
        ("2.7.1+cu128", "lambda_dpo needs torch 2.8 or newer, but this is torch 2.7.1."),
    ],
)
def test_no_torch_and_an_older_one_are_refused(tmp_path, version, message):
    assert setup(tmp_path, version, "egg_info", "--egg-base", str(tmp_path)) == (1, message)


@pytest.mark.parametrize(
    ("version", "torchaudio"),
    [
        ("2.10.0+cpu", []),
        ("2.11.0+cu130", ["torchaudio==2.11.0"]),
        ("2.12.1", ["torchaudio==2.11.0"]),
        ("2.15.0", []),
    ],
)
def test_the_package_needs_the_torch_that_it_is_built_for(tmp_path, version, torchaudio):
    status, output = setup(tmp_path, version, "egg_info", "--egg-base", str(tmp_path))
    assert status == 0, output
    required = (tmp_path / "lambda_dpo.egg-info" / "requires.txt").read_text().split("\n\n")
    assert required[0] == f"torch=={version.split('+')[0]}"
    assert required[1].split() == ["[factory]", "llamafactory==0.9.5", *torchaudio]
