"""What a tokenizer's folder says in several places and forms is read as `AutoTokenizer` reads it."""

import ctypes
import json
import shutil

import pytest
import transformers
from packaging.version import Version
from tiny import ROOT
from transformers import AutoTokenizer

from lambda_dpo import PluginError, _abi, _native

BASE = ROOT / "fixtures" / "chat_templates" / "tokenizer"
TEXTS = ["Hello", " Hello <s>", "a<end>b", "<new> x", "x <tool>y</tool>", "<|im_start|>user\nHi<|im_end|>\n", "<s></s><pad>", " <end> <new> "]
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
PRINT = "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ unk_token }}|{{ tool_token }}|{% for m in messages %}{{ m.content }};{% endfor %}"


def token(content, **flags):
    return {"__type": "AddedToken", "content": content, **flags}


def flags(content, special=True, **changed):
    """An entry of `added_tokens_decoder`."""
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": special} | changed


CONFIG = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "tokenizer_class": "PreTrainedTokenizerFast"}
DECODER = {str(i): flags(text) for i, text in enumerate(["<s>", "</s>", "<pad>"])}

#: Files of a folder by its name; a dict is written as JSON, and None means that there is no such file.
FOLDERS = {
    "as it is": {},
    "no configuration": {"tokenizer_config.json": None},
    "null": {"config": {"eos_token": None}},
    "a token that is not in the vocabulary": {"config": {"eos_token": "<end>"}},
    "several such tokens, in another order than they are added": {"config": {"pad_token": "<new>", "eos_token": "<end>", "tool_token": "<tool>"}},
    "an object": {"config": {"eos_token": token("<end>", lstrip=True, special=True)}},
    "an object that is not special": {"config": {"eos_token": token("<end>", special=False, normalized=True)}},
    "an object with rstrip": {"config": {"extra_special_tokens": [token("<new>", rstrip=True)]}},
    "the map overrides": {"special_tokens_map.json": {"eos_token": "<end>"}},
    "the map overrides by an object": {"special_tokens_map.json": {"eos_token": flags("<end>", lstrip=True)}},
    "the map overrides by null": {"special_tokens_map.json": {"eos_token": None}},
    "the map adds": {"config": {"pad_token": "gone"}, "special_tokens_map.json": {"unk_token": "<new>", "pad_token": "<pad>"}},
    "the map has a name of its own": {"special_tokens_map.json": {"tool_token": "<tool>"}},
    "the map is ignored beside a decoder": {
        "config": {"added_tokens_decoder": DECODER}, "special_tokens_map.json": {"eos_token": "<end>"}
    },
    "the map alone": {"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"}, "special_tokens_map.json": {"eos_token": "</s>"}},
    "additional": {"config": {"additional_special_tokens": ["<new>", "<tool>"]}},
    "extra": {"config": {"extra_special_tokens": ["<tool>", "<new>"]}},
    "extra and additional": {"config": {"extra_special_tokens": ["<tool>"], "additional_special_tokens": ["<new>"]}},
    "extra with names": {"config": {"extra_special_tokens": {"tool_token": "<tool>", "image_token": "<new>"}}},
    "additional in the map": {"special_tokens_map.json": {"additional_special_tokens": ["<new>"]}},
    "extra in both": {"config": {"extra_special_tokens": ["<tool>"]}, "special_tokens_map.json": {"extra_special_tokens": ["<new>"]}},
    "additional in both": {"config": {"additional_special_tokens": ["<tool>"]}, "special_tokens_map.json": {"additional_special_tokens": ["<new>"]}},
    "extra empty": {"config": {"extra_special_tokens": [], "additional_special_tokens": ["<new>"]}},
    "extra null": {"config": {"extra_special_tokens": None, "additional_special_tokens": ["<new>"]}},
    "a name of its own": {"config": {"tool_token": "<tool>"}},
    "a decoder with new tokens": {"config": {"added_tokens_decoder": DECODER | {"500": flags("<new>"), "450": flags("<tool>", special=False)}}},
    "a decoder with other properties": {"config": {"added_tokens_decoder": DECODER | {"4": flags("<|im_end|>", rstrip=True)}}},
    "a decoder that makes a token of a word": {"config": {"added_tokens_decoder": DECODER | {"300": flags("Hello", special=False)}}},
    "a decoder and a name": {"config": {"added_tokens_decoder": DECODER | {"500": flags("<end>", special=False)}, "eos_token": "<end>"}},
    "added tokens": {"added_tokens.json": {"<new>": 421, "<tool>": 420}},
    "added tokens beside a decoder": {"config": {"added_tokens_decoder": DECODER}, "added_tokens.json": {"<new>": 420}},
    "added tokens that are named": {"config": {"eos_token": "<end>"}, "added_tokens.json": {"<new>": 420, "<end>": 421}},
    "add_bos_token": {"config": {"add_bos_token": True, "add_eos_token": True}},
    "split_special_tokens": {"config": {"split_special_tokens": True}},
    "a padding token in tokenizer.json": {
        "config": {"pad_token": ...},
        "tokenizer": {"padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 2,
                                  "pad_type_id": 0, "pad_token": "<pad>"}},
    },
    "truncation in tokenizer.json": {
        "tokenizer": {"truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}}
    },
    "generation_config.json is not the tokenizer's": {"generation_config.json": {"eos_token_id": 4, "bos_token_id": 3}},
    "config.json is not the tokenizer's": {"config.json": {"model_type": "llama", "eos_token_id": 4, "bos_token_id": 3}},
    "a template in the configuration": {"config": {"chat_template": "config " + PRINT}},
    "a template in a file": {"config": {"chat_template": "config " + PRINT}, "chat_template.jinja": "file " + PRINT},
    "a template with CRLF": {"chat_template.jinja": PRINT + "\r\n{% if true %}\r\nx{% endif %}\r\n"},
    "a list of templates": {
        "config": {"chat_template": [{"name": "rag", "template": "rag"}, {"name": "default", "template": "list " + PRINT}]}
    },
    "an object of templates": {"config": {"chat_template": {"rag": "rag", "default": "object " + PRINT}}},
    "a list that has a name twice": {
        "config": {"chat_template": [{"name": "default", "template": "first"}, {"name": "default", "template": "second"}]}
    },
    "a list without default": {"config": {"chat_template": [{"name": "rag", "template": "rag"}]}},
    "a folder of templates": {"chat_template.jinja": "file " + PRINT, "additional_chat_templates/rag.jinja": "rag"},
    "a folder with default": {"chat_template.jinja": "file " + PRINT, "additional_chat_templates/default.jinja": "folder " + PRINT},
    "a folder without default": {"config": {"chat_template": "config"}, "additional_chat_templates/rag.jinja": "rag"},
    "an empty template": {"chat_template.jinja": ""},
    "no template": {"config": {"chat_template": None}},
    "chat_template.json is a processor's": {"chat_template.json": {"chat_template": "processor"}},
}

#: Before 5.18 an empty list of extra tokens hid those under their older name; we read them as the newest does.
CHANGED_IN_5_18 = ("extra empty", "extra null")

#: Where Transformers has no answer, or one that depends on its own version.
REFUSED = {
    "versions": {"config": {"fast_tokenizer_files": ["tokenizer.json", "tokenizer.4.0.json"]}},
    "a number as a token": {"config": {"eos_token": 3}},
    "a text as extra tokens": {"config": {"extra_special_tokens": "<new>"}},
}


def write(folder, files):
    shutil.copytree(BASE, folder)
    files = dict(files)
    config = CONFIG | files.pop("config", {})
    files.setdefault("tokenizer_config.json", {name: value for name, value in config.items() if value is not ...})
    if changed := files.pop("tokenizer", None):
        files["tokenizer.json"] = json.loads((BASE / "tokenizer.json").read_text()) | changed
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if content is None:
            path.unlink()
        else:
            path.write_bytes((content if isinstance(content, str) else json.dumps(content)).encode())
    return str(folder)


class Ours:
    """The library's tokenizer."""

    def __init__(self, folder):
        self.handle = _native.make("tokenizer_open", "tokenizer_free", _native.Text(folder).str, _native.Text("").str)

    def _text(self, name, *arguments):
        found = _abi.Bytes()
        _native.call(name, self.handle.raw, *arguments, ctypes.byref(found))
        return _native.take_text(found) or ""

    def info(self):
        return json.loads(self._text("tokenizer_info"))

    def render(self, messages, add_generation_prompt):
        return self._text("tokenizer_render", _native.Text(json.dumps(messages)).str, int(add_generation_prompt))

    def encode(self, text):
        pointer = ctypes.c_void_p()
        _native.call("tokenizer_encode", self.handle.raw, _native.Text(text).str, ctypes.byref(pointer))
        return _native.take_tensor(pointer.value).tolist()


def rendered(tokenizer, header):
    try:
        return tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=header)
    except ValueError:
        return None


def where_read_alike(name):
    is_older = Version(transformers.__version__) < Version("5.18")
    reason = "Transformers before 5.18 reads this folder otherwise"
    return pytest.param(name, marks=pytest.mark.skipif(is_older and name in CHANGED_IN_5_18, reason=reason))


@pytest.mark.parametrize("name", map(where_read_alike, FOLDERS))
def test_a_folder_is_read_as_by_transformers(name, tmp_path):
    folder = write(tmp_path / "folder", FOLDERS[name])
    theirs = AutoTokenizer.from_pretrained(folder)
    texts = [rendered(theirs, header) for header in (False, True)]
    if None in texts and theirs.chat_template is not None:
        with pytest.raises(PluginError, match=r"data\.chat_template"):
            Ours(folder)
        return
    ours = Ours(folder)
    info = ours.info()
    assert info["has_chat_template"] == (theirs.chat_template is not None)
    assert info["vocab_size"] == len(theirs)
    for kind in ("bos", "eos", "pad"):
        assert info[f"{kind}_token_id"] == getattr(theirs, f"{kind}_token_id"), kind
    for text in TEXTS:
        assert ours.encode(text) == theirs(text, add_special_tokens=False, truncation=False, padding=False).input_ids, text
    if theirs.chat_template is not None:
        assert [ours.render(CHAT, header) for header in (False, True)] == texts


@pytest.mark.parametrize("name", ["Qwen2Tokenizer", "Qwen2TokenizerFast"])
def test_a_class_has_its_own_special_tokens(name, tmp_path):
    folder = write(tmp_path / "folder", {"tokenizer_config.json": {"tokenizer_class": name, "chat_template": PRINT}})
    theirs, ours = AutoTokenizer.from_pretrained(folder), Ours(folder)
    for kind in ("bos", "eos", "pad"):
        assert ours.info()[f"{kind}_token_id"] == getattr(theirs, f"{kind}_token_id"), kind
    assert ours.render(CHAT, False) == rendered(theirs, False)


@pytest.mark.parametrize("name", REFUSED)
def test_a_folder_that_cannot_be_read_is_refused(name, tmp_path):
    field = next(iter(REFUSED[name]["config"]))
    with pytest.raises(PluginError, match=f"tokenizer_config.json: `{field}`"):
        Ours(write(tmp_path / "folder", REFUSED[name]))
