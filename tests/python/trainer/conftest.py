"""A tiny Llama, shared by the tests of a file."""

import pytest
from tiny import make_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder of its weights and tokenizer, as text."""
    return make_model(tmp_path_factory.mktemp("model"))
