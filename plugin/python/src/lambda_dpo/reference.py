"""Cache of precomputed reference log-probs.

The key of an entry is a hash of the model and a hash of the sample's tokens, so a change to either is a cache miss.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .peft_configs import peft_configs

#: Summed log-probs of a sample's responses, by the hash of its tokens.
Entries = dict[str, list[float]]


def cache_folder() -> Path:
    """Returns `LAMBDA_DPO_CACHE` if set, else `lambda-dpo` in the user's cache folder."""
    named = os.environ.get("LAMBDA_DPO_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(base) / "lambda-dpo"


def sample_key(feature: Mapping[str, Any]) -> str:
    """Hash of a sample's tokens, the only thing besides the model that its log-probs depend on."""
    digest = hashlib.blake2b(digest_size=16)
    for ids in [feature["prompt_ids"], *feature["response_ids"]]:
        digest.update(repr([int(token) for token in ids]).encode())
    return digest.hexdigest()


def model_key(model: Any, precision: str) -> str:
    """Hash of a model's config, weights and dtypes, without its adapters; `precision` is that of autocast."""
    adapters = tuple(f".{name}." for name in peft_configs(model))
    digest = hashlib.blake2b(digest_size=16)
    config = model.config.to_dict()
    for name in ("_name_or_path", "transformers_version", "use_cache"):
        config.pop(name, None)
    digest.update(repr((precision, sorted(config.items(), key=lambda item: item[0]))).encode())
    for name, parameter in model.named_parameters():
        if any(adapter in f"{name}." for adapter in adapters):
            continue
        # Undo PEFT's wrapping of layers, so that a weight has the same name with and without an adapter.
        name = name.removeprefix("base_model.model.").replace(".base_layer.", ".").replace(".original_module.", ".")
        digest.update(repr((name, str(parameter.dtype), tuple(parameter.shape))).encode())
        digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


class ReferenceCache:
    """File with the log-probs of one model: safetensors with a checksum, written to a temporary file and renamed."""

    def __init__(self, key: str, folder: Path | None = None) -> None:
        self.path = (folder or cache_folder()) / "reference-python" / f"{key}.safetensors"

    def load(self) -> tuple[Entries, str | None]:
        """Returns the entries of the file and, if it is damaged, no entries and a message."""
        from safetensors import SafetensorError, safe_open

        if not self.path.exists():
            return {}, None
        try:
            with safe_open(self.path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in ("keys", "lengths", "log_probs")}
                checksum = (file.metadata() or {}).get("checksum")
        except (SafetensorError, OSError) as error:
            return {}, f"{self.path} cannot be read ({error}): its log-probs are recomputed."
        if checksum != _checksum(tensors):
            return {}, f"{self.path} is damaged: its log-probs are recomputed."
        keys = [bytes(row.tolist()).hex() for row in tensors["keys"]]
        values = tensors["log_probs"].split(tensors["lengths"].tolist())
        return {key: value.tolist() for key, value in zip(keys, values, strict=True)}, None

    def add(self, entries: Entries) -> None:
        """Adds entries to those that are in the file by now."""
        from safetensors.torch import save_file

        if not entries:
            return
        known = self.load()[0] | entries
        tensors = {
            "keys": torch.tensor([list(bytes.fromhex(key)) for key in known], dtype=torch.uint8),
            "lengths": torch.tensor([len(values) for values in known.values()]),
            "log_probs": torch.tensor([value for values in known.values() for value in values], dtype=torch.float64),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self.path.parent, suffix=".part")
        os.close(handle)
        try:
            save_file(tensors, temporary, metadata={"checksum": _checksum(tensors)})
            os.replace(temporary, self.path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def by_length(features: Sequence[Mapping[str, Any]], batch_size: int) -> list[list[int]]:
    """Batches indices of samples of similar length, longest first, so that running out of memory shows at once."""

    def length(index: int) -> int:
        feature = features[index]
        return len(feature["prompt_ids"]) + sum(len(ids) for ids in feature["response_ids"])

    order = sorted(range(len(features)), key=lambda index: (-length(index), index))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def sequence_sums(token_log_probs: Tensor, batch: Mapping[str, Tensor]) -> list[list[float]]:
    """Summed log-probs of each prompt's sequences, accumulated in float64 in token order."""
    num_sequences = batch["sequence_num_tokens"].numel()
    sums = torch.zeros(num_sequences, dtype=torch.float64)
    sums.index_add_(0, batch["target_sequences"].cpu(), token_log_probs.cpu().double())
    counts = torch.bincount(batch["sequence_prompts"].cpu(), minlength=batch["prompt_offsets"].numel() - 1)
    return [values.tolist() for values in torch.split(sums, counts.tolist())]
