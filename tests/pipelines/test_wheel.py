"""The wheel carries everything that a run needs."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    builder = pytest.importorskip("hatchling.builders.wheel").WheelBuilder(str(ROOT))
    return Path(next(iter(builder.build(directory=str(tmp_path_factory.mktemp("wheel"))))))


def test_it_holds_every_file_of_the_package_and_of_conf(wheel: Path):
    def wanted(folder: Path, prefix: str) -> set[str]:
        files = (file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
        return {prefix + file.relative_to(folder).as_posix() for file in files}

    names = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("binllm/")}
    assert names == wanted(ROOT / "binllm", "binllm/") | wanted(ROOT / "conf", "binllm/conf/")
    assert "binllm/conf/config.yaml" in names
    assert "binllm/models/assets/stories260K.bin" in names


def test_it_installs_both_commands(wheel: Path):
    archive = zipfile.ZipFile(wheel)
    (entry,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
    assert set(archive.read(entry).decode().split("\n")) >= {
        "binllm = binllm.cli:main", "binllm-tools = binllm.tools:main"
    }  # fmt: skip


def test_a_run_works_from_it(wheel: Path, tmp_path: Path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    work = tmp_path / "work"
    work.mkdir()
    code = "import sys, binllm.cli; print(binllm.__file__); sys.argv[0] = 'binllm'; binllm.cli.main()"
    words = ("debug=tiny", "solver=closed_form", "threads=1")
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(tmp_path / "site" / "binllm" / "__init__.py")
    assert done.stdout.splitlines()[-1].startswith(f"run folder: {work}/results/tiny_llama-interpolated-")
