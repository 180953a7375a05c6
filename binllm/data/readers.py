"""Readers of text: embedded files, local files, the hub. Each gives documents one after the other."""

from __future__ import annotations

import gzip
import json
import lzma
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from binllm.errors import BinllmError, bad_value

ASSETS = Path(__file__).parent / "assets"
_STORY = re.compile(r"Once upon a time|Once there w|Once, there|One day, (a|there)\b")


def embedded_text(name: str) -> str:
    """Decompress an embedded file; UTF-8, line ends as they are."""
    return lzma.decompress((ASSETS / name).read_bytes()).decode("utf-8")


def wikitext_rows(name: str, field: str, limit: int | None) -> Iterator[str]:
    """Rows of an embedded WikiText file as `datasets` gives them: empty, or ended by a newline."""
    for line in embedded_text(name).removesuffix("\n").split("\n"):
        yield "" if line == " " else line + "\n"


def embedded_jsonl(name: str, field: str, limit: int | None) -> Iterator[str]:
    """Documents of an embedded file of JSON lines."""
    for line in embedded_text(name).splitlines():
        yield json.loads(line)[field]


def stories(name: str, heldout: bool, field: str, limit: int | None) -> Iterator[str]:
    """Stories of the embedded TinyStories sample: the last fifth (held out), or all before it.

    The sample marks no ends, so a story is taken to begin at a paragraph with one of the usual openings.
    Joined by blank lines the stories are the sample's text.
    """
    found: list[list[str]] = []
    for paragraph in embedded_text(name).strip().split("\n\n"):
        if not found or _STORY.match(paragraph):
            found.append([])
        found[-1].append(paragraph)
    start = len(found) - len(found) // 5
    for story in found[start:] if heldout else found[:start]:
        yield "\n\n".join(story)


def local(path: Path, key: str, field: str, limit: int | None) -> Iterator[str]:
    """Documents of a local file: a ``.txt`` file is one, a ``.jsonl`` file has one a line.

    Args:
        path: The file; ``.gz`` or ``.xz`` may stand behind.
        key: Configuration group, for errors.
        field: Field that holds the text (JSON lines).
        limit: Unused: the caller stops.

    Yields:
        Documents in order.

    Raises:
        BinllmError: The file is missing, of another kind, not UTF-8, not JSON or without the field.
    """
    kinds = [suffix for suffix in path.suffixes if suffix not in (".gz", ".xz")]
    if not path.is_file():
        raise bad_value(f"{key}.path", path, "an existing text file")
    if not kinds or kinds[-1] not in (".txt", ".jsonl"):
        raise bad_value(f"{key}.path", path, "a .txt or .jsonl file, also with .gz or .xz behind")
    try:
        with _open(path) as stream:
            if kinds[-1] == ".txt":
                yield stream.read()
                return
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield _field_of(line, field, f"{path}, line {number}", key)
    except (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError) as error:
        raise bad_value(f"{key}.path", path, f"a readable UTF-8 text file ({error})") from error


def _open(path: Path) -> IO[str]:
    openers: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open}
    return openers.get(path.suffix, open)(path, "rt", encoding="utf-8")


def _field_of(line: str, field: str, where: str, key: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise bad_value(f"{key}.path", where, "JSON, one object a line") from error
    if not isinstance(row, dict) or not isinstance(row.get(field), str):
        names = ", ".join(row) if isinstance(row, dict) else "no object"
        raise bad_value(f"{key}.field", field, f"a field with text; {where} has {names}")
    return row[field]


def hub(
    place: tuple[str, ...],
    split: str,
    field: str,
    limit: int | None,
    revision: str | None = None,
    data_files: dict[str, str] | None = None,
) -> Iterator[str]:
    """Documents of a data set on the hub, or of a local folder in its layout, through `datasets`.

    Args:
        place: Id of the data set (or a folder) and, where it has several, the configuration's name.
        split: Split.
        field: Field that holds the text.
        limit: Where it is given the rows are streamed, so that only the first part is downloaded.
        revision: Branch, tag or commit.
        data_files: Split to file, to read one file instead of all.

    Yields:
        Documents in order.

    Raises:
        BinllmError: `datasets` is not installed, the data set cannot be read, or it lacks the field.
    """
    try:
        import datasets
    except ImportError as error:
        raise BinllmError(f"corpus {place[0]} needs datasets; try: pip install datasets") from error
    try:
        load: Any = datasets.load_dataset  # its overloads want streaming as a literal
        streaming = limit is not None
        rows = load(*place, split=split, revision=revision, data_files=data_files, streaming=streaming)
        for row in rows:
            if field not in row:
                raise bad_value("field", field, f"a field of {place[0]}: {', '.join(row)}")
            yield row[field]
    except BinllmError:
        raise
    except Exception as error:  # network, authorisation, unknown id: `datasets` raises many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        where = f"corpus {'/'.join(place)}, split {split}"
        raise BinllmError(f"{where}: cannot be read from the hub ({reason})") from error
