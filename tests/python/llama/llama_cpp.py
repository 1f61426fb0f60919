"""llama.cpp's C API, from the library in the package llama-cpp-cffi."""

import importlib.util
from pathlib import Path

# Only the library is loaded: the package's own modules need far more packages.
_folder = Path(importlib.util.find_spec("llama").origin).parent
(_path,) = _folder.glob("_llama_cpp_cpu.*.so")
_spec = importlib.util.spec_from_file_location("_llama_cpp_cpu", _path)
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
lib, ffi = _module.lib, _module.ffi


class Llama:
    """A model in float32 with LoRAs, whose scales can be set at any time."""

    def __init__(self, model, loras):
        lib.llama_backend_init()
        self._model = lib.llama_model_load_from_file(str(model).encode(), lib.llama_model_default_params())
        assert self._model != ffi.NULL, f"llama.cpp cannot load {model}"
        self._loras = []
        for path in loras:
            lora = lib.llama_adapter_lora_init(self._model, str(path).encode())
            assert lora != ffi.NULL, f"llama.cpp cannot load {path}"
            self._loras.append(lora)
        parameters = lib.llama_context_default_params()
        parameters.n_ctx, parameters.n_threads, parameters.n_threads_batch = 512, 1, 1
        # The cache too, whose type is float16 by default.
        parameters.type_k = parameters.type_v = lib.GGML_TYPE_F32
        self._context = lib.llama_init_from_model(self._model, parameters)
        assert self._context != ffi.NULL

    def set_scales(self, scales):
        """Sets the scale of each LoRA, in order, as the field `lora` of a request to llama-server does."""
        for lora, scale in zip(self._loras, scales, strict=True):
            assert lib.llama_set_adapter_lora(self._context, lora, scale) == 0

    def generate(self, prompt_ids, max_new_tokens, eos_token_id):
        """Returns the tokens that follow, each the most probable one, without the end token."""
        lib.llama_kv_cache_clear(self._context)
        vocab_size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self._model))
        next_ids, generated = list(prompt_ids), []
        while len(generated) < max_new_tokens:
            tokens = ffi.new("llama_token[]", next_ids)
            assert lib.llama_decode(self._context, lib.llama_batch_get_one(tokens, len(next_ids))) == 0
            logits = ffi.unpack(lib.llama_get_logits_ith(self._context, -1), vocab_size)
            token = max(range(vocab_size), key=logits.__getitem__)
            if token == eos_token_id:
                break
            generated.append(token)
            next_ids = [token]
        return generated

    def close(self):
        """Frees everything."""
        lib.llama_free(self._context)
        lib.llama_model_free(self._model)
