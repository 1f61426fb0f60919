"""Stages 1 to 3 for a trainer: datasets of records, of whatever form, become tokenised samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from .config import ListwiseOptions
from .errors import ConfigError
from .pairs import format_of
from .records import convert
from .tokenization import COLUMNS, SampleTokenizer

logger = logging.get_logger(__name__)


class Preparation:
    """Prepares the datasets of one trainer, which have the same form and dimensions.

    Attributes:
        dimensions: names of the dimensions: the options', or those of the first dataset.
    """

    def __init__(self, options: ListwiseOptions, processing_class: PreTrainedTokenizerBase) -> None:
        self.dimensions: list[str] = list(options.dimensions or [])
        self._options = options
        self._processing_class = processing_class
        self._max_length = options.max_length
        self._tokenizer: SampleTokenizer | None = None
        self._data_format: str | None = None

    def __call__(self, dataset: Any) -> Any:
        """Converts a dataset, or several by name, to tokenised samples.

        Raises:
            ConfigError: If the dataset is streamed, has no record that can be used, or another form than earlier ones.
            InvalidInputError: If a record is invalid.
        """
        if dataset is None:
            return None
        if isinstance(dataset, Mapping):
            return {name: self(part) for name, part in dataset.items()}
        if not isinstance(dataset, datasets.Dataset):
            raise ConfigError(
                f"The dataset is a {type(dataset).__name__}, but λ-DPO needs to count its records: load it without "
                "streaming."
            )
        if set(COLUMNS) <= set(dataset.column_names):
            return self._tokenised_before(dataset)
        samples = convert(dataset, self._options.convert_options(self._format_of(dataset.column_names)))
        if len(samples) == 0:
            raise ConfigError(
                f"None of the {len(dataset)} records can be used: each needs at least two responses rated or ranked in "
                "the same dimension."
            )
        if not self.dimensions:
            self.dimensions = list(samples[0]["dimensions"])
        if self._tokenizer is None:
            self._tokenizer = SampleTokenizer(self._processing_class, self._max_length)
        tokenized = self._tokenizer.tokenize_dataset(samples)
        logger.info(f"{len(tokenized)} of {len(dataset)} records are used.")
        return tokenized

    def _tokenised_before(self, dataset: datasets.Dataset) -> datasets.Dataset:
        options = self._options
        if not self.dimensions:
            raise ConfigError("The samples are already tokenised: name the rows of `pi_target` in `dimensions`.")
        if "reference_log_probs" in dataset.column_names and not options.has_reference:
            reason = "`reference_free` is set" if options.reference_free else f"{options.loss_type} has none"
            raise ConfigError(
                f"The samples have `reference_log_probs` of a reference, but {reason}: remove the column."
            )
        return dataset

    def _format_of(self, columns: Sequence[str]) -> str:
        """The format of a dataset, which must be that of the others."""
        found = format_of(columns, self._options.data_format)
        if self._data_format not in (None, found):
            raise ConfigError(
                f"One dataset has the format {self._data_format}, another {found}: give those for training and "
                "evaluation in the same form."
            )
        self._data_format = found
        return found
