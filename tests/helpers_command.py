"""The real commands in processes of their own, without paying the import of torch and transformers each time.

`Preloaded` starts one process that imports everything and then forks a child for every command. The child is what a
user starts: its own arguments, working directory, streams and exit code, and it can be killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMEOUT = 120.0


@dataclass
class Finished:
    """A command that ended: exit code (negative for a signal), stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The error, which must be the last line of stderr; before it only progress lines may stand."""
        lines = self.err.splitlines()
        assert lines, self
        assert all(line.startswith(("load ", "full_precision ", "quantize ")) for line in lines[:-1]), self.err
        return lines[-1]


class Running:
    """A command that was started."""

    def __init__(self, server: Preloaded, pid: int, folder: Path) -> None:
        self._server, self.pid, self._folder = server, pid, folder

    def signal(self, number: int) -> None:
        """Send a signal; the child stays a zombie until `wait`, so its id cannot be another process's."""
        os.kill(self.pid, number)

    def wait(self) -> Finished:
        """Wait for its end."""
        code = self._server._ask({"wait": self.pid})["code"]
        texts = [(self._folder / name).read_text() for name in ("out", "err")]
        return Finished(code, *texts)


class Preloaded:
    """The process that imports once; a context manager."""

    def __enter__(self) -> Preloaded:
        quick = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
        self._scratch = tempfile.TemporaryDirectory(prefix="binllm-tests-")
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **quick},
        )
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == "ready\n"
        self._count = 0
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(TIMEOUT)
        self._scratch.cleanup()

    def start(self, cwd: Path, *args: str, program: str = "binllm", hooks: dict[str, Any] | None = None) -> Running:
        """Start a command.

        Args:
            cwd: Its working directory.
            args: Its arguments.
            program: binllm or binllm-tools.
            hooks: Arguments of `install_hooks`, for the child only.
        """
        self._count += 1
        folder = Path(self._scratch.name) / str(self._count)
        folder.mkdir()
        request = {"args": [program, *args], "cwd": str(cwd), "folder": str(folder), "hooks": hooks or {}}
        return Running(self, self._ask(request)["pid"], folder)

    def __call__(self, cwd: Path, *args: str, program: str = "binllm", hooks: dict[str, Any] | None = None) -> Finished:
        """Run a command to its end."""
        return self.start(cwd, *args, program=program, hooks=hooks).wait()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(request), file=self._server.stdin, flush=True)
        return json.loads(self._server.stdout.readline())


def install_hooks(
    layers: str | None = None,
    die_in_write: int = 0,
    writes: str | None = None,
    interrupt_in_write: int = 0,
    environment: dict[str, str] | None = None,
) -> None:
    """Watch or kill this process from inside.

    Args:
        layers: File to which a line ``block layer`` is appended before each layer is fitted.
        die_in_write: Kill the process in the middle of its so-manieth durable write: half of
            the file is there, or the folder's new entry is not durable yet.
        writes: File to which a line is appended for every durable write.
        interrupt_in_write: Send this process what Ctrl-C sends, in its so-manieth durable write.
        environment: Variables that this process has besides.
    """
    os.environ.update(environment or {})
    from binllm.tracking import atomic, progress

    count = 0
    told, wrote = progress.RunProgress.layer, atomic.sync

    def layer(self: Any, block: int, name: str) -> None:
        _append(layers, f"{block} {name}")
        told(self, block, name)

    def synced(path: Path) -> None:
        nonlocal count
        count += 1
        _append(writes, str(path))
        if count == interrupt_in_write:
            os.kill(os.getpid(), signal.SIGINT)
        if count == die_in_write:
            if path.is_file():
                os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        wrote(path)

    progress.RunProgress.layer = layer  # type: ignore[method-assign]
    atomic.sync = synced


def _append(file: str | None, line: str) -> None:
    if file is not None:
        with open(file, "a") as stream:
            stream.write(line + "\n")


def _serve() -> None:
    import torch

    import binllm.cli
    import binllm.explain
    import binllm.help
    import binllm.jobs
    import binllm.pipeline
    import binllm.planning
    import binllm.tools  # noqa: F401

    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = {"code": os.waitstatus_to_exitcode(status)}
        else:
            pid = os.fork()
            if pid == 0:
                _be_the_command(request)
            answer = {"pid": pid}
        print(json.dumps(answer), flush=True)


def _be_the_command(request: dict[str, Any]) -> None:
    code = 1
    try:
        _redirect(Path(request["folder"]))
        os.chdir(request["cwd"])
        sys.argv = request["args"]
        from binllm import cli, tools

        # A shell that starts tests in the background has Ctrl-C ignored, and children inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if request["hooks"]:
            install_hooks(**request["hooks"])
        {"binllm": cli.main, "binllm-tools": tools.main}[sys.argv[0]]()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _redirect(folder: Path) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)


def wait_for(path: Path, seconds: float = TIMEOUT) -> None:
    """Wait until a file exists."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.002)


if __name__ == "__main__":
    _serve()
