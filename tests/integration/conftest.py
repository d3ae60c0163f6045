"""Tiny seeded checkpoints for the integration tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.checkpoints import make_checkpoint


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with a masked-LM head."""
    return make_checkpoint("bert", "masked-lm", tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 with a causal-LM head."""
    return make_checkpoint("gpt2", "causal-lm-with-past", tmp_path_factory.mktemp("checkpoints"))
