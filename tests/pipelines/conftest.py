"""Models and texts on disk for the pipeline tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from binllm.models import Family, ModelConfig, Source, load_model


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaMA in the layout of transformers; not to be changed."""
    loaded = load_model(ModelConfig(name="saved", source=Source.random, family=Family.llama))
    folder = tmp_path_factory.mktemp("saved") / "model"
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def model_folder(saved_model: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may damage."""
    return Path(shutil.copytree(saved_model, tmp_path / "model"))
