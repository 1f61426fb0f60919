"""A tiny Llama for the tests of a file to share."""

import pytest
from tiny import make_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of its weights and tokenizer, as text."""
    return make_model(tmp_path_factory.mktemp("model"))
