"""``binllm --help`` lists what there is, in a moment."""

from __future__ import annotations

import re
import subprocess
import sys

from binllm.help import help_text
from binllm.yaml_folder import CONF


def test_every_option_of_every_group_is_listed_once_and_nothing_internal():
    lines = help_text().splitlines()
    for folder in (folder for folder in CONF.iterdir() if folder.is_dir()):
        start = lines.index(f"  {folder.name}")
        listed = []
        for line in lines[start + 1 :]:
            if not line.startswith("   ") and not line.startswith("  * "):
                break
            listed += re.findall(r"^  [ *] ([\w/]+)", line)
        files = sorted(folder.rglob("*.yaml"))
        assert listed == [file.relative_to(folder).with_suffix("").as_posix() for file in files]
    assert "schema_" not in help_text()


def test_the_defaults_are_marked():
    assert "* smollm2 " in help_text()
    assert "* best " in help_text()


def test_lines_fit_a_terminal():
    assert max(map(len, help_text().splitlines())) <= 120


def test_help_does_not_wait_for_torch():
    code = "import sys; from binllm.cli import main; main(); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("binllm: 1-bit")
