"""Stage 3: tokenises samples with the files of a Hugging Face tokenizer."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _abi, _native
from .errors import ConfigError

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

#: Columns of a tokenised sample, which `ListwiseCollator` reads.
COLUMNS = ("record", "prompt_ids", "response_ids", "response_indices", "pi_target")
#: One more: the place of each response in each dimension, `[M][N]`, from 1 for the best; equal ones tie, and 0 is masked.
#: Samples without it are in the order of `pi_target`.
RANKS = "ranks"

#: Raised when the same samples begin to give other tokens.
_VERSION = 3


class SampleTokenizer:
    """Renders samples with a tokenizer's chat template and encodes them.

    A response's tokens are those that `apply_chat_template(messages + [answer])` adds to
    `apply_chat_template(messages, add_generation_prompt=True)`, including its end-of-turn token. Truncation to
    `max_length` keeps the end of the prompt and the start of each response.

    Args:
        tokenizer: a fast tokenizer with a chat template, or its folder.
        max_length: maximum length of prompt + longest response in tokens; None does not truncate.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase | str | os.PathLike[str], max_length: int | None = None) -> None:
        self.max_length = max_length
        if isinstance(tokenizer, (str, os.PathLike)):
            self._open(Path(tokenizer))
            return
        if not getattr(tokenizer, "is_fast", False):
            raise ConfigError(f"{type(tokenizer).__name__} has no tokenizer.json: use its fast version.")
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)
            self._open(Path(folder))

    def _open(self, folder: Path) -> None:
        handle = _native.make(
            "tokenizer_open", "tokenizer_free", _native.Text(str(folder)).str, _native.Text("").str
        )
        assert handle is not None
        self._handle = handle
        digest = hashlib.blake2b(digest_size=16)
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest.update(str(file.relative_to(folder)).encode() + b"\0" + file.read_bytes())
        self._digest = digest.hexdigest()

    def tokenize(self, sample: Mapping[str, Any]) -> dict[str, Any] | None:
        """Tokenises a sample; returns None if fewer than two responses have any tokens left.

        Raises:
            InvalidInputError: If the tokenizer has no chat template, or the template raises an error for the sample.
        """
        options = _abi.TokenizeOptions(cutoff_len=self.max_length or 0)
        text = _native.Text(json.dumps(sample))
        handle = _native.make("tokenize", "tokenized_sample_free", self._handle.raw, text.str, options)
        if handle is None:
            return None
        tokens = _abi.Bytes()
        _native.call("tokenized_sample_tokens", handle.raw, ctypes.byref(tokens))
        taken = _native.take_text(tokens)
        assert taken is not None
        columns: dict[str, Any] = json.loads(taken)
        return columns

    def tokenize_dataset(self, samples: datasets.Dataset) -> datasets.Dataset:
        """Tokenises a dataset of samples on all cores; the result is kept in the cache of `datasets`."""

        def batch(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
            rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                tokenized = [tokens for tokens in pool.map(self.tokenize, rows) if tokens is not None]
            return {name: [tokens[name] for tokens in tokenized] for name in (*COLUMNS, RANKS)}

        key = f"{_VERSION}-{samples._fingerprint}-{self._digest}-{self.max_length}"
        return samples.map(
            batch,
            batched=True,
            remove_columns=samples.column_names,
            new_fingerprint=hashlib.blake2b(key.encode(), digest_size=8).hexdigest(),
            desc="Tokenizing",
        )
