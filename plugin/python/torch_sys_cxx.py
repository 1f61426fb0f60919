#!/usr/bin/env python3
"""C++ compiler that leaves out the functions of torch-sys whose operators the environment's torch lacks.

torch-sys wraps every operator of one torch, and other versions have removed, added or changed a few of them. setup.py
sets CXX to this file and CXX_OF_TORCH_SYS to the compiler. A wrapper in torch-sys's generated file that does not compile
is left out of what is compiled instead; nothing else is changed, neither in the file nor in any other. Nothing replaces
the function: if this project calls it, directly or through tch, linking fails and names it.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

GENERATED = "torch_api_generated.cpp"
FUNCTION = re.compile(r"^\S[^\n]*?\b(atg_\w+)\([^\n]*\) \{\n.*?^\}$", re.MULTILINE | re.DOTALL)


class Unknown(Exception):
    """The compiler's errors are not all inside of functions of the generated file."""


def without_functions(source, lines):
    """Blanks the functions in which the given lines (1-based) are; returns the source, with as many lines, and their names.

    Raises:
        Unknown: If a line is in no function.
    """
    left, names = set(lines), []

    def blank(function):
        first = source.count("\n", 0, function.start()) + 1
        inside = {line for line in left if first <= line <= first + function[0].count("\n")}
        if not inside:
            return function[0]
        left.difference_update(inside)
        names.append(function[1])
        return "\n" * function[0].count("\n")

    kept = FUNCTION.sub(blank, source)
    if left:
        raise Unknown
    return kept, names


def error_lines(messages, file):
    """Returns the lines of `file` at which the compiler's messages report errors.

    Raises:
        Unknown: If there is none, or an error elsewhere.
    """
    places = re.findall(r"^(.+?):(\d+):(?:\d+:)? (?:fatal )?error: ", messages, re.MULTILINE)
    if not places or any(place != file for place, _ in places):
        raise Unknown
    return [int(line) for _, line in places]


def compile_generated(compiler, arguments, position):
    """Compiles the generated file, which is `arguments[position]`; returns the exit status."""
    given = Path(arguments[position])
    command = [*compiler, "-fmax-errors=0", *arguments]
    tried = subprocess.run(command, capture_output=True, text=True, errors="replace", env=os.environ | {"LC_ALL": "C"})
    if tried.returncode == 0:
        sys.stderr.write(tried.stderr)
        return 0
    try:
        kept, names = without_functions(given.read_text(), error_lines(tried.stderr, str(given)))
    except Unknown:
        sys.stderr.write(tried.stderr)
        return tried.returncode
    print(f"torch-sys without what this torch lacks: {', '.join(names)}", file=sys.stderr)
    beside = Path(arguments[arguments.index("-o") + 1]).with_suffix(".cpp")
    beside.write_text(kept)
    arguments = [*arguments[:position], str(beside), *arguments[position + 1 :], f"-iquote{given.parent}"]
    return subprocess.run([*compiler, *arguments]).returncode


def main():
    compiler, arguments = os.environ["CXX_OF_TORCH_SYS"].split(), sys.argv[1:]
    generated = [position for position, argument in enumerate(arguments) if Path(argument).name == GENERATED]
    if generated and "-c" in arguments and "-o" in arguments:
        sys.exit(compile_generated(compiler, arguments, generated[0]))
    os.execvp(compiler[0], [*compiler, *arguments])


if __name__ == "__main__":
    main()
