#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets that read binary files or HTTP: fuzz/seeds/{safetensors,config,http}.

    python3 fuzz/make_seeds.py [--check]
"""

import json
import struct
import sys
from pathlib import Path

FUZZ = Path(__file__).parent
ROOT = FUZZ.parent
CONFIG = json.loads((FUZZ / "model/config.json").read_text(encoding="utf-8"))
HIDDEN, VOCAB, INTERMEDIATE = CONFIG["hidden_size"], CONFIG["vocab_size"], CONFIG["intermediate_size"]
KEYS = CONFIG["num_key_value_heads"] * CONFIG["head_dim"]
# Modules of the one layer: inputs and outputs.
LINEAR = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN, KEYS),
    "self_attn.v_proj": (HIDDEN, KEYS),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (HIDDEN, INTERMEDIATE),
    "mlp.up_proj": (HIDDEN, INTERMEDIATE),
    "mlp.down_proj": (INTERMEDIATE, HIDDEN),
}


def safetensors(shapes: dict[str, tuple[int, ...]], dtypes: dict[str, str] | None = None) -> bytes:
    """A file of tensors of ones."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, shape in shapes.items():
        dtype = (dtypes or {}).get(name, "F32")
        one = {"F32": struct.pack("<f", 1.0), "BF16": b"\x80\x3f", "I64": struct.pack("<q", 1), "BOOL": b"\x01"}[dtype]
        count = 1
        for size in shape:
            count *= size
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + count * len(one)]}
        data += one * count
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def model() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for name, (inputs, outputs) in LINEAR.items():
        shapes[f"model.layers.0.{name}.weight"] = (outputs, inputs)
    for name in ("input_layernorm", "post_attention_layernorm"):
        shapes[f"model.layers.0.{name}.weight"] = (HIDDEN,)
    return shapes


def adapter() -> dict[str, tuple[int, ...]]:
    """A λ-adapter as fuzz/src/tiny.rs describes it: rank 1, and rank 1 for each of two dimensions."""
    shapes = {}
    for name, (inputs, outputs) in LINEAR.items():
        shapes[f"base_model.model.model.layers.0.{name}.lora_A.weight"] = (3, inputs)
        shapes[f"base_model.model.model.layers.0.{name}.lora_B.weight"] = (outputs, 3)
    return shapes


def http(method: str, path: str, body: object = None, headers: str = "") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n{headers}"
    if body is None:
        return f"{head}\r\n".encode()
    text = json.dumps(body)
    return f"{head}content-type: application/json\r\ncontent-length: {len(text)}\r\n\r\n{text}".encode()


def chat(**fields: object) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": "name a fruit"}], "max_tokens": 4} | fields


def seeds() -> dict[str, bytes]:
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(model(), "shard.safetensors")}
    mixed = {"ids": (2, 2), "mask": (3,), "half": (1, 2), "scalar": (), "empty": (0, 4)}
    found = {
        "safetensors/model": b"\x00" + safetensors(model()),
        "safetensors/model_bf16": b"\x00" + safetensors(model(), dict.fromkeys(model(), "BF16")),
        "safetensors/index": b"\x01" + json.dumps(index).encode(),
        "safetensors/adapter": b"\x02" + safetensors(adapter()),
        "safetensors/tensors": b"\x03" + safetensors(mixed, {"ids": "I64", "mask": "BOOL", "half": "BF16"}),
    }
    llama = (FUZZ / "model/config.json").read_bytes()
    lora = (ROOT / "fixtures/golden/models/llama31/adapter/adapter_config.json").read_bytes()
    both = json.loads(lora) | {"peft_type": "LAMBDA_LORA", "r": 3, "rank_per_dimension": 1, "dimensions": ["a", "b"]}
    runs = sorted((ROOT / "docs/examples").glob("*.toml")) + sorted((ROOT / "fixtures/demo").glob("*.toml"))
    for run in runs:
        found[f"config/{run.stem}"] = run.read_bytes() + b"\0" + llama + b"\0" + lora
    families = ("llama31", "mistral", "qwen2", "qwen3")
    for family in families:
        config = (ROOT / "fixtures/golden/models" / family / "config.json").read_bytes()
        found[f"config/{family}"] = runs[0].read_bytes() + b"\0" + config + b"\0" + json.dumps(both).encode()
    found |= {
        "http/health": http("GET", "/health"),
        "http/models": http("GET", "/v1/models"),
        "http/metrics": http("GET", "/metrics"),
        "http/page": http("GET", "/"),
        "http/options": http("OPTIONS", "/v1/models", headers="origin: http://example.com\r\n"),
        "http/chat": http("POST", "/v1/chat/completions", chat()),
        "http/chunked": b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"transfer-encoding: chunked\r\n\r\n1b\r\n" + b'{"model":"m","prompt":"one"' + b"\r\n1\r\n}\r\n0\r\n\r\n",
        "http/two": http("GET", "/health").replace(b"close", b"keep-alive") + http("GET", "/health"),
        "http/lambda": json.dumps(chat(**{"lambda": {"honesty": 0.25, "helpfulness": 0.75}})).encode(),
        "http/name": json.dumps(chat(model="m@honesty=0.7", seed=3, temperature=0.5, top_p=0.9)).encode(),
        "http/stream": json.dumps(
            chat(stream=True, stream_options={"include_usage": True}, logprobs=True, top_logprobs=2, n=2, stop=["one"])
        ).encode(),
        "http/completion": b" " + json.dumps(
            {"model": "m", "prompt": ["one two", "blue"], "max_tokens": 3, "echo": True, "logprobs": 2, "stop": "red"}
        ).encode(),
        "http/ids": b" " + json.dumps({"model": "m", "prompt": [[5, 6], [7]], "max_tokens": 2, "stream": True}).encode(),
    }
    return found


def main() -> None:
    wrong = []
    for name, content in seeds().items():
        path = FUZZ / "seeds" / name
        if "--check" in sys.argv:
            if not path.is_file() or path.read_bytes() != content:
                wrong.append(name)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    if wrong:
        sys.exit(f"{', '.join(wrong)}: out of date: python3 fuzz/make_seeds.py")


if __name__ == "__main__":
    main()
