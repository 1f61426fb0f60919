"""llama.cpp's C API, from the library in the package llama-cpp-cffi."""

import importlib.util
from pathlib import Path

import numpy as np

# Only the library is loaded: the package's own modules need far more packages.
_folder = Path(importlib.util.find_spec("llama").origin).parent
(_path,) = _folder.glob("_llama_cpp_cpu.*.so")
_spec = importlib.util.spec_from_file_location("_llama_cpp_cpu", _path)
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
lib, ffi = _module.lib, _module.ffi


class Llama:
    """A model with LoRAs, whose scales can be set at any time, and a cache for texts that are decoded together."""

    def __init__(self, model, loras=(), num_threads=1, num_rows=1, num_positions=512):
        lib.llama_backend_init()
        self._model = lib.llama_model_load_from_file(str(model).encode(), lib.llama_model_default_params())
        assert self._model != ffi.NULL, f"llama.cpp cannot load {model}"
        self._loras = []
        for path in loras:
            lora = lib.llama_adapter_lora_init(self._model, str(path).encode())
            assert lora != ffi.NULL, f"llama.cpp cannot load {path}"
            self._loras.append(lora)
        num_tokens = num_rows * num_positions
        parameters = lib.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = num_tokens
        parameters.n_seq_max = num_rows
        parameters.n_threads = parameters.n_threads_batch = num_threads
        # The cache is float16 by default.
        parameters.type_k = parameters.type_v = lib.GGML_TYPE_F32
        self._context = lib.llama_init_from_model(self._model, parameters)
        assert self._context != ffi.NULL
        self._vocab_size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self._model))
        self._batch = lib.llama_batch_init(num_tokens, 0, 1)

    def set_scales(self, scales):
        """Sets the scale of each LoRA, in order, as the field `lora` of a request to llama-server does."""
        for lora, scale in zip(self._loras, scales, strict=True):
            assert lib.llama_set_adapter_lora(self._context, lora, scale) == 0

    def clear(self):
        """Forgets all texts."""
        lib.llama_kv_cache_clear(self._context)

    def decode(self, rows, start):
        """Adds tokens to each row from a position on and returns the most probable next token of each row."""
        last, index = [], 0
        for row, tokens in enumerate(rows):
            for offset, token in enumerate(tokens):
                self._batch.token[index] = token
                self._batch.pos[index] = start + offset
                self._batch.n_seq_id[index] = 1
                self._batch.seq_id[index][0] = row
                self._batch.logits[index] = offset == len(tokens) - 1
                index += 1
            last.append(index - 1)
        self._batch.n_tokens = index
        assert lib.llama_decode(self._context, self._batch) == 0
        logits = (lib.llama_get_logits_ith(self._context, position) for position in last)
        return [int(np.frombuffer(ffi.buffer(row, 4 * self._vocab_size), np.float32).argmax()) for row in logits]

    def generate(self, prompt_ids, max_new_tokens, eos_token_id):
        """Returns the tokens that follow, each the most probable one, without the end token."""
        self.clear()
        next_ids, start, generated = list(prompt_ids), 0, []
        while len(generated) < max_new_tokens:
            (token,) = self.decode([next_ids], start)
            if token == eos_token_id:
                break
            generated.append(token)
            start += len(next_ids)
            next_ids = [token]
        return generated

    def close(self):
        """Frees everything."""
        lib.llama_batch_free(self._batch)
        lib.llama_free(self._context)
        lib.llama_model_free(self._model)
