"""The table of what Jinja2 renders, which the Rust tests compare with, is what Jinja2 renders."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "fixtures" / "chat_templates" / "make_expressions.py"


def test_the_committed_table_is_what_jinja2_renders():
    subprocess.run([sys.executable, SCRIPT, "--check"], check=True)
