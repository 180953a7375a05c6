"""Text is read from where it is said to be, exactly, or refused in one line."""

import gzip
import hashlib
import json
import re
import sys
from functools import partial

import pytest

from binllm.data import CORPORA, TextConfig, load_documents, readers
from binllm.data.corpora import Split
from binllm.errors import BinllmError


def read(corpus="text", split="all", **fields):
    return load_documents(TextConfig(name="t", corpus=corpus, split=split, **fields), "dataset")


def test_the_embedded_bytes_are_those_their_readme_names():
    listed = re.findall(
        r"\| (\S+)\.xz \|.*\| ([\d,]+) \| `([0-9a-f]{64})` \|", (readers.ASSETS / "README.md").read_text()
    )
    assert {f"{name}.xz" for name, _, _ in listed} == {path.name for path in readers.ASSETS.glob("*.xz")}
    for name, size, digest in listed:
        data = readers.embedded_text(f"{name}.xz").encode()
        assert (f"{len(data):,}", hashlib.sha256(data).hexdigest()) == (size, digest)


def test_wikitext_rows_are_those_of_the_datasets_library():
    documents = read("wikitext2", "test")
    assert len(documents.texts) == 4358
    assert documents.texts[:3] == ["", " = Robert Boulter = \n", ""]
    assert documents.join == "\n\n"
    assert documents.label == "wikitext2/test"


def test_c4_sample_has_its_thousand_documents():
    documents = read("c4_sample_a", "train")
    assert len(documents.texts) == 1000
    assert documents.texts[0].startswith("Beginners BBQ Class Taking Place in Missoula!")
    assert documents.join == "\n"


def test_the_two_splits_of_tinystories_are_the_whole_text_once():
    train, heldout = read("tinystories", "train"), read("tinystories", "heldout")
    text = "\n\n".join(train.texts + heldout.texts)
    assert text == readers.embedded_text("tinystories_sample.txt.xz").strip()
    assert len(heldout.texts) == (len(train.texts) + len(heldout.texts)) // 5


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "txt"])
def test_local_files(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    text = "\n".join(json.dumps({"text": word}) for word in ("one", "two"))
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if ending.endswith("gz") else text.encode())
    documents = read(path=str(path))
    assert documents.texts == ([text] if ending == "txt" else ["one", "two"])
    assert documents.label.startswith(f"text:a.{ending}:")


def test_the_label_of_a_local_file_follows_its_content(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    first = read(path=str(path)).label
    path.write_text("two")
    assert read(path=str(path)).label != first


def test_the_label_tells_a_limit_and_another_join():
    assert read("c4_sample_a", "train", documents=3, join=" ").label == "c4_sample_a/train/documents=3/join=' '"
    assert len(read("c4_sample_a", "train", documents=3).texts) == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"corpus": "wikitex2"}, "dataset.corpus = wikitex2: .*did you mean 'wikitext2'"),
        ({"corpus": "wikitext2", "split": "train"}, "dataset.split = train: allowed are test, valid"),
        ({}, "dataset.path = None"),
        ({"path": "/no/such/file.txt"}, "dataset.path = /no/such/file.txt: allowed is an existing"),
        ({"corpus": "wikitext2", "path": "/a.txt"}, "dataset.path = /a.txt: allowed is null"),
    ],
)
def test_a_place_that_is_not_there_is_named(fields, message):
    with pytest.raises(BinllmError, match=message):
        read(**fields)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b" \n", "dataset.path = .*not empty"),
        ("a.txt", b"\xff\xfe\x00", "dataset.path = .*UTF-8"),
        ("a.csv", b"one,two", "dataset.path = .*a .txt or .jsonl"),
        ("a.jsonl", b'{"text": "x"}\nnonsense', "a.jsonl, line 2: allowed is JSON"),
        ("a.jsonl", b'{"body": "x"}', "dataset.field = text: .*line 1 has body"),
        ("a.jsonl.gz", b"not compressed", "dataset.path"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}' * 99, mtime=0)[:-9], "dataset.path"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BinllmError, match=message):
        read(path=str(tmp_path / name))


@pytest.fixture
def as_hub(tmp_path, monkeypatch):
    """A corpus of the hub whose repository is a local folder, which `datasets` reads in the same way."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "repository").mkdir()
    rows = [{"sentence": word} for word in ("one", "two", "three")]
    (tmp_path / "repository" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    read_hub = partial(readers.hub, (str(tmp_path / "repository"),), "train", data_files={"train": "train.jsonl"})
    monkeypatch.setitem(CORPORA, "folder", {"train": Split(read_hub, " ", field="sentence")})
    return tmp_path / "repository"


def test_the_hub_is_read_through_datasets(as_hub):
    assert read("folder", "train").texts == ["one", "two", "three"]
    assert read("folder", "train", documents=2).texts == ["one", "two"]


def test_faults_of_the_hub_are_one_line(as_hub):
    with pytest.raises(BinllmError, match="field = text: allowed is a field of .*sentence"):
        read("folder", "train", field="text")
    (as_hub / "train.jsonl").unlink()
    with pytest.raises(BinllmError, match="cannot be read from the hub") as caught:
        read("folder", "train")
    assert "\n" not in str(caught.value)


def test_without_datasets_the_error_says_what_to_install(as_hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BinllmError, match="pip install datasets"):
        read("folder", "train")
