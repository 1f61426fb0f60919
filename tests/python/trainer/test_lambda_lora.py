"""λ-adapters in PEFT: how λ is set, generated with, merged and refused."""

import copy
import pickle
import re
import subprocess
import sys
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny import make_model
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from lambda_dpo import ConfigError, LambdaLoraConfig, set_lambda

NAMES = ["helpfulness", "honesty", "truth"]
IDS = torch.arange(3, 27).reshape(3, 8)
THREE = [{"helpfulness": 1}, {"honesty": 1}, {"truth": 0.6}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"))


def adapted(folder, **options):
    """A model whose adapter does something."""
    config = {"r": 2, "rank_per_dimension": 3, "dimensions": NAMES, "init_lora_weights": False}
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=options.pop("dtype", torch.float32))
    torch.manual_seed(5)
    return get_peft_model(base, LambdaLoraConfig(**{**config, **options}), autocast_adapter_dtype=False).eval()


@torch.no_grad()
def logits(model, ids=IDS, **inputs):
    return model(ids, **inputs).logits


def same(found, expected, tolerance=1e-5):
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    "options", [{}, {"r": 0}, {"use_rslora": True}, {"lora_alpha": 5, "target_modules": ["q_proj", "v_proj"]}]
)
def test_the_output_is_that_of_the_definition(folder, options):
    """W x + alpha / r · (B_0 A_0 x + Σ λ_k B_k A_k x), computed dimension by dimension in float64, to 1e-12."""
    model = adapted(folder, dtype=torch.float64, **options)
    config = model.peft_config["default"]
    layer = model.get_submodule("base_model.model.model.layers.1.self_attn.q_proj")
    x = torch.randn(3, 5, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([[0.2, 0.5, 0.3], [1, 0, 0], [0, 0.75, 0.25]], dtype=torch.float64)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    scaling = config.lora_alpha / (3**0.5 if config.use_rslora else 3)
    expected = layer.base_layer(x) + scaling * (x @ a[: config.r].T @ b[:, : config.r].T)
    for k in range(3):
        part = slice(config.r + 3 * k, config.r + 3 * k + 3)
        expected = expected + scaling * weights[:, k, None, None] * (x @ a[part].T @ b[:, part].T)
    with model.set_lambda(weights):
        same(layer(x), expected, 1e-12)
    with model.set_lambda(weights[:, None].expand(3, 5, 3)):
        same(layer(x), expected, 1e-12)


def test_a_new_adapter_changes_nothing(folder):
    """A is uniform within ±1 / √in and B is 0, as the program initialises them."""
    config = LambdaLoraConfig(dimensions=NAMES)
    assert (config.r, config.rank_per_dimension, config.lora_alpha, config.total_rank) == (8, 8, 16, 32)
    base = AutoModelForCausalLM.from_pretrained(folder)
    expected = logits(base)
    model = get_peft_model(base, config)
    with model.set_lambda(honesty=1):
        same(logits(model), expected, 0)
    layer = model.get_submodule("base_model.model.model.layers.0.mlp.down_proj")
    assert layer.lora_A["default"].weight.shape == (32, 64) and layer.lora_B["default"].weight.abs().max() == 0
    assert 0.9 / 8 < layer.lora_A["default"].weight.abs().max() <= 1 / 8
    adapted_names = {name.split(".")[-3] for name, weight in model.named_parameters() if weight.requires_grad}
    assert len(adapted_names) == 2 and not any(
        "lm_head" in name for name, w in model.named_parameters() if w.requires_grad
    )


def test_lambda_of_a_batch_of_rows_and_of_tokens(folder):
    model = adapted(folder)
    with model.set_lambda(THREE):
        in_rows = logits(model)
    for row, weights in enumerate(THREE):
        with model.set_lambda(weights):
            same(logits(model, IDS[row : row + 1]), in_rows[row : row + 1])
    by_token = torch.zeros(3, 8, 3)
    by_token[0, :, 0], by_token[1, :, 1] = 1, 1
    by_token[2] = torch.tensor([0.2, 0.2, 0.6])
    with model.set_lambda(by_token):
        same(logits(model), in_rows)
    # What a token sees of λ changes what it and later tokens compute, and nothing before.
    by_token[2, 5:] = torch.tensor([1.0, 0, 0])
    with model.set_lambda(by_token):
        found = logits(model)
    same(found[2, :5], in_rows[2, :5])
    assert (found[2, 5:] - in_rows[2, 5:]).abs().amax(-1).min() > 0.01


def test_how_lambda_is_given(folder):
    model = adapted(folder)
    model.set_lambda(helpfulness=0.7)
    expected = logits(model)
    for given in ({"helpfulness": 0.7}, "helpfulness=0.7", "helpfulness=0.7,honesty=0.15", [{"helpfulness": 0.7}],
                  torch.tensor([0.7, 0.15, 0.15]), torch.tensor([[0.7, 0.15, 0.15]] * 3)):  # fmt: skip
        model.set_lambda(truth=1)
        model.set_lambda(given)
        same(logits(model), expected, 1e-6)
    set_lambda(torch.nn.parallel.DataParallel(model), helpfulness=0.7)  # Whatever wraps the model.
    same(logits(model), expected, 1e-6)


def test_after_a_block_lambda_is_what_it_was(folder):
    model = adapted(folder)
    model.set_lambda(honesty=1)
    expected = logits(model)
    with model.set_lambda(truth=1):
        with model.set_lambda(helpfulness=1):
            assert (logits(model) - expected).abs().max() > 0.1
        assert (logits(model) - expected).abs().max() > 0.1
    same(logits(model), expected, 0)
    with pytest.raises(RuntimeError, match="stop"), model.set_lambda(truth=1):
        raise RuntimeError("stop")
    same(logits(model), expected, 0)


def test_an_unset_lambda_is_uniform_and_says_so_once(folder):
    model = adapted(folder)
    notice = (
        "λ is not set, so all dimensions (helpfulness, honesty, truth) have the same weight: set it with "
        "model.set_lambda(…)."
    )
    with pytest.warns(UserWarning, match=re.escape(notice)):
        found = logits(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(logits(model), found, 0)
        with model.set_lambda():
            same(logits(model), found, 1e-6)


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3}, {"num_return_sequences": 2, "num_beams": 2}, {"use_cache": False}]
)
def test_rows_of_one_generation_have_their_own_lambda(folder, options):
    """Each row, padded on the left, gives what it gives alone."""
    model = adapted(folder)
    prompts = [[5, 9, 12, 30, 7, 8], [11, 4], [40, 41, 42]]
    ids = torch.tensor([[0] * (6 - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (6 - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None, **options}
    with model.set_lambda(THREE):
        found = model.generate(input_ids=ids, attention_mask=mask, **options)[:, 6:]
    copies = options.get("num_return_sequences", 1)
    alone = []
    for prompt, weights in zip(prompts, THREE, strict=True):
        with model.set_lambda(weights):
            alone.append(model.generate(torch.tensor([prompt]), **options)[:, len(prompt) :])
    assert torch.equal(found, torch.cat(alone))
    same_prompt = torch.tensor(prompts[:1] * 3)
    with model.set_lambda(THREE):
        answers = model.generate(same_prompt, **options).tolist()
    assert len({tuple(answer) for answer in answers}) > copies, "λ changes the answers"


def test_pipelines_generate_at_a_lambda(folder):
    model = adapted(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    generate = pipeline("text-generation", model=model, tokenizer=tokenizer)
    answers = []
    for weights in THREE:
        with model.set_lambda(weights):
            (answer,) = generate("The otter", max_new_tokens=8, do_sample=False, return_full_text=False)
            ids = model.generate(**tokenizer("The otter", return_tensors="pt"), max_new_tokens=8, do_sample=False)
        assert answer["generated_text"] == tokenizer.decode(
            ids[0, len(tokenizer("The otter").input_ids) :], skip_special_tokens=True
        )
        answers.append(answer["generated_text"])
    assert len(set(answers)) > 1


@pytest.mark.parametrize("safe", [False, True])
def test_merging_at_a_lambda(folder, safe):
    model = adapted(folder, dtype=torch.float64)
    base = logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64))
    at = {}
    for name in NAMES:
        with model.set_lambda({name: 1}):
            at[name] = logits(model)
    with model.set_lambda(honesty=1):
        model.merge_adapter(safe_merge=safe)
    same(logits(model), at["honesty"], 1e-10)
    with pytest.raises(
        ConfigError, match=re.escape("The adapter is merged at one λ: call unmerge_adapter() before you set")
    ):
        model.set_lambda(truth=1)
    model.unmerge_adapter()
    with model.set_lambda(truth=1):
        same(logits(model), at["truth"], 1e-10)
        model.merge_adapter(safe_merge=safe)
        # PEFT unmerges when the adapter is disabled.
        with model.disable_adapter():
            same(logits(model), base, 1e-10)
        same(logits(model), at["truth"], 1e-10)
    model.set_lambda(THREE)
    with pytest.raises(
        ConfigError, match="A merged adapter has one λ, but λ is set for 3 rows: set one λ for the whole batch"
    ):
        model.merge_adapter()
    model.set_lambda(helpfulness=1)
    merged = model.merge_and_unload(safe_merge=safe)
    same(logits(merged), at["helpfulness"], 1e-10)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    # As older PEFT leaves it.
    merged.peft_config = model.peft_config
    with pytest.raises(ConfigError, match="The model has no λ-adapter, so it has no λ"):
        set_lambda(merged, truth=1)


def test_copies_have_their_own_lambda_and_pickles_keep_it(folder):
    model = adapted(folder)
    model.set_lambda(honesty=1)
    expected = logits(model)
    again, stored = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    again.set_lambda(truth=1)
    same(logits(model), expected, 0)
    same(logits(stored), expected, 0)
    stored.merge_adapter()
    same(logits(stored), expected)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointed_layers_are_recomputed_at_the_lambda_of_their_forward(folder, use_reentrant):
    """Two forwards at two λ, then one backward, when λ is already another."""

    def gradients(checkpointing):
        model = adapted(folder, dtype=torch.float64).train()
        if checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        losses = []
        for weights in (THREE, {"truth": 1}):
            with model.set_lambda(weights):
                losses.append(model(IDS, labels=IDS).loss)
        model.set_lambda(helpfulness=1)
        sum(losses).backward()
        return {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}

    expected, found = gradients(False), gradients(True)
    assert max(gradient.abs().max() for gradient in expected.values()) > 0.01
    for name, gradient in expected.items():
        same(found[name], gradient, 1e-12)


def test_two_adapters_each_have_a_lambda(folder):
    model = adapted(folder)
    torch.manual_seed(6)
    model.add_adapter("other", LambdaLoraConfig(r=1, dimensions=["style", "depth"], init_lora_weights=False))
    model.set_lambda(honesty=1)
    first = logits(model)
    model.set_adapter("other")
    model.set_lambda(style=1)
    assert (logits(model) - first).abs().max() > 0.1
    with pytest.raises(ConfigError, match="λ names the dimension `honesty`, but the adapter has style, depth"):
        model.set_lambda(honesty=1)
    model.set_adapter("default")
    same(logits(model), first, 0)
    model.delete_adapter("other")
    same(logits(model), first, 0)
    with pytest.raises(
        ConfigError, match="λ-adapters cannot be added up: set a λ with set_lambda, or merge each at its λ"
    ):
        model.base_model.add_weighted_adapter(["default"], [1.0], "sum")


def test_peft_is_imported_only_by_those_who_use_it(tmp_path, folder):
    """The package registers when PEFT is imported, whichever of them comes first."""
    adapted(folder).save_pretrained(tmp_path / "adapter")
    load = (
        "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n"
        f"model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({folder!r}), {str(tmp_path / 'adapter')!r})\n"
        "model.set_lambda(honesty=1)\n"
    )
    programs = [
        "import sys, lambda_dpo\nassert not {'peft', 'transformers'} & set(sys.modules)\n" + load,
        "import peft, lambda_dpo\n" + load,
        "from lambda_dpo import LambdaLoraConfig\n" + load,
        "import lambda_dpo.lambda_lora.context\n" + load,
        "import importlib.util, lambda_dpo\nassert importlib.util.find_spec('peft')\n" + load,
    ]
    for program in programs:
        subprocess.run([sys.executable, "-c", program], check=True)


INVALID = {
    "unknown name": ({"honest": 1}, "λ names the dimension `honest`, but the adapter has helpfulness, honesty, truth"),
    "no weight": ("honesty", "`honesty` in λ is not of the form name=weight, as in honesty=0.5"),
    "negative": ({"honesty": -1}, "λ gives `honesty` the weight -1: weights must be numbers of at least 0"),
    "not finite": ({"honesty": float("nan")}, "λ gives `honesty` the weight NaN: weights must be numbers of at least 0"),
    "not finite, as text": ("honesty=nan", "λ gives `honesty` the weight nan: weights must be numbers of at least 0"),
    "no number": ({"honesty": "much"}, "λ gives `honesty` the weight much: weights must be numbers of at least 0"),
    "twice": ("honesty=0.5,honesty=0.5", "λ names `honesty` twice"),
    "more than 1": ({"honesty": 0.6, "truth": 0.5}, "the weights of λ sum to 1.1: they must sum to 1 within 0.001"),
    "less than 1": (
        {"helpfulness": 0.2, "honesty": 0.3, "truth": 0.4},
        "the weights of λ sum to 0.9: they must sum to 1 within 0.001",
    ),
    "in a row": ([{"honesty": 1}, {"honest": 1}], "row 1: λ names the dimension `honest`, but the adapter has helpfulness, honesty, truth"),
    "tensor, sum": (torch.tensor([0.5, 0.2, 0.2]), "the weights of λ sum to 0.9: they must sum to 1 within 0.001"),
    "tensor, negative": (torch.tensor([1.5, -0.5, 0]), "λ gives `honesty` the weight -0.5: weights must be numbers of at least 0"),
    "tensor, shape": (
        torch.ones(2, 4) / 4,
        "λ has the shape [2, 4], but the adapter has 3 dimensions (helpfulness, honesty, truth): give [3], [rows, 3] or "
        "[rows, tokens, 3]",
    ),
    "numbers": ([0.5, 0.5], "λ is [0.5, 0.5], but it must be weights by name, a list with those of each row, or a tensor of weights."),
}  # fmt: skip


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_lambda_is_refused_in_the_programs_words(folder, name):
    given, message = INVALID[name]
    model = adapted(folder)
    model.set_lambda(truth=1)
    expected = logits(model)
    with pytest.raises(ConfigError) as error:
        model.set_lambda(given)
    assert str(error.value) == message
    same(logits(model), expected, 0)  # The λ before is kept.


def test_lambda_of_another_batch_is_refused(folder):
    model = adapted(folder)
    model.set_lambda(THREE)
    rows = "λ is set for 3 rows, but the batch has {}: set one λ for the whole batch, or one for each row."
    with pytest.raises(ConfigError, match=re.escape(rows.format(2))):
        logits(model, IDS[:2])
    for count in (2, 6):
        with pytest.raises(ConfigError, match=re.escape(rows.format(count))):
            model.generate(IDS.repeat(2, 1)[:count], max_new_tokens=1, pad_token_id=0)
    with pytest.raises(
        ConfigError, match="λ is set for each row, but a layer sees \\[24\\] tokens without rows: set one λ"
    ):
        model.get_submodule("base_model.model.model.layers.0.mlp.up_proj")(torch.ones(24, 32))
    model.set_lambda(torch.ones(3, 5, 3) / 3)
    with pytest.raises(
        ConfigError, match="λ is set for 5 tokens a row, but the batch has 8: set one λ for each row, or for each"
    ):
        logits(model)
    with pytest.raises(
        ConfigError, match="λ is set for each token, which is for packed rows: set one for each row before you"
    ):
        model.generate(IDS, max_new_tokens=1)
    with pytest.raises(ConfigError, match="λ is given twice, by name and as a value: leave one out."):
        model.set_lambda({"honesty": 1}, truth=1)


def test_models_without_lambda_are_named(folder, tmp_path):
    plain = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), LoraConfig(r=2, task_type="CAUSAL_LM"))
    message = "The adapter's peft_type is LORA, not LAMBDA_LORA, so it has no λ: load a λ-adapter first."
    for call in (lambda: plain.set_lambda(honesty=1), lambda: set_lambda(plain, honesty=1)):
        with pytest.raises(ConfigError, match=re.escape(message)):
            call()
    with pytest.raises(
        ConfigError, match="The model has no λ-adapter, so it has no λ: load one with PeftModel.from_pretrained"
    ):
        set_lambda(AutoModelForCausalLM.from_pretrained(folder), honesty=1)
    plain.save_pretrained(tmp_path / "lora")
    with pytest.raises(
        ConfigError, match="The adapter's peft_type is LORA, not LAMBDA_LORA, so it has no λ: load it with PEFT's"
    ):
        LambdaLoraConfig.from_pretrained(tmp_path / "lora")
    assert isinstance(
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path / "lora"), PeftModel
    )


CONFIGS = {
    "rank": (dict(r=-1), "An adapter's rank must be at least 0, found -1"),
    "rank per dimension": (dict(rank_per_dimension=0), "An adapter's rank per dimension must be at least 1, found 0"),
    "both ranks": (dict(r=0), "An adapter's rank per dimension must be at least 1, found 0"),
    "dropout": (dict(lora_dropout=1.0), "An adapter's dropout must be at least 0 and below 1, found 1.0"),
    "alpha": (dict(lora_alpha=float("inf")), "An adapter's alpha must be a number, found inf"),
    "no dimension": (dict(dimensions=[]), "A λ-adapter needs at least one dimension, found none"),
    "twice": (dict(dimensions=["a", "b", "a"]), "`dimensions` names `a` twice: name each dimension once."),
    "text": (dict(dimensions="abc"), "`dimensions` is 'abc', but a λ-adapter has the list of their names."),
    "dora": (dict(use_dora=True), "`use_dora` = True is not supported by a λ-adapter: leave it out."),
    "bias": (dict(bias="all"), "`bias` = 'all' is not supported by a λ-adapter: leave it out."),
    "saved modules": (dict(modules_to_save=["lm_head"]), "`modules_to_save` = ['lm_head'] is not supported by a λ-adapter: leave it out."),
    "ranks": (dict(rank_pattern={"q_proj": 4}), "`rank_pattern` = {'q_proj': 4} is not supported by a λ-adapter: leave it out."),
    "pissa": (dict(init_lora_weights="pissa"), "`init_lora_weights` = 'pissa' is not supported by a λ-adapter: set it to True, False or 'gaussian'."),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_invalid_configurations_are_refused(name):
    options, message = CONFIGS[name]
    with pytest.raises(ConfigError) as error:
        LambdaLoraConfig(**{"dimensions": NAMES, **options})
    assert str(error.value) == message


def test_targets_that_a_lambda_adapter_cannot_adapt(folder):
    base = AutoModelForCausalLM.from_pretrained(folder)
    with pytest.raises(
        ConfigError, match="The target `model.embed_tokens` is a Embedding, but a λ-adapter adapts linear layers"
    ):
        get_peft_model(base, LambdaLoraConfig(dimensions=NAMES, target_modules=["embed_tokens"]))
    with pytest.raises(
        ConfigError, match="The λ-adapter has no dimensions: name them, as in LambdaLoraConfig\\(dimensions="
    ):
        get_peft_model(AutoModelForCausalLM.from_pretrained(folder), LambdaLoraConfig())
