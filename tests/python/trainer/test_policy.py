"""How models are run: packed rows and the fused head if a model supports them; otherwise a notice and the same loss."""

import datasets
import pytest
import torch
from tiny import records
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    GPT2Config,
    MistralConfig,
    TrainingArguments,
)

from lambda_dpo import (
    ConfigError,
    InvalidInputError,
    LambdaDPOConfig,
    LambdaDPOTrainer,
    ListwiseCollator,
    SampleTokenizer,
    convert,
    lambda_dpo_loss,
)
from lambda_dpo.policy import plan


@pytest.fixture(scope="module")
def features(folder):
    tokenizer = SampleTokenizer(folder)
    return [tokenizer.tokenize(sample) for sample in convert(records(3))]


def random_model(config, **options):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    return model.eval()


def small(config_class, **options):
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return config_class(vocab_size=400, num_key_value_heads=2, head_dim=8, **{**shape, **options})


def loss(model, policy, features):
    batch = ListwiseCollator(layout=policy.layout)(features)
    compute = lambda **given: lambda_dpo_loss(batch, beta=0.02, **given).loss  # noqa: E731
    return policy.run(model, batch, torch.float32, compute)


def plain_loss(model, features):
    batch = ListwiseCollator(layout="rows")(features)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return lambda_dpo_loss(batch, beta=0.02, logits=logits).loss


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["mistral", "gpt2"])
def test_packed_rows_and_fused_heads_give_the_plain_loss(features, kind, attention):
    configs = {
        "mistral": small(MistralConfig, sliding_window=None),
        "gpt2": GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=4, n_positions=512),
    }
    model = random_model(configs[kind], attn_implementation=attention)
    policy = plan(model, "packed")
    assert (policy.layout, policy.notices) == ("packed", ())
    assert policy.head is model.get_output_embeddings()
    found, expected = loss(model, policy, features), plain_loss(model, features)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert "forward" not in policy.head.__dict__


def test_models_with_sliding_windows_run_in_rows(features):
    model = random_model(small(MistralConfig, sliding_window=16), attn_implementation="sdpa")
    policy = plan(model, "packed")
    assert policy.layout == "rows" and policy.head is not None
    problem = "does not support packed rows (it uses sliding-window attention)"
    assert policy.notices[0].startswith(f"MistralForCausalLM {problem}")
    torch.testing.assert_close(loss(model, policy, features), plain_loss(model, features), atol=1e-5, rtol=0)


def test_transformed_logits_are_computed_as_a_whole(features):
    config = small(Gemma2Config, final_logit_softcapping=5.0, query_pre_attn_scalar=8)
    model = random_model(config, attn_implementation="eager")
    policy = plan(model, "packed")
    assert policy.head is None and policy.layout == "rows" and len(policy.notices) == 2
    torch.testing.assert_close(loss(model, policy, features), plain_loss(model, features), atol=1e-5, rtol=0)


def test_models_are_tried_out(folder):
    """Two things that no config shows: a model that scales its logits, and one that ignores the mask."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    forward = model.forward

    def scaled(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = output.logits * 2
        return output

    model.forward = scaled
    assert plan(model, "packed").head is None

    def blind(input_ids=None, position_ids=None, attention_mask=None, **kwargs):
        return forward(input_ids=input_ids, **kwargs)

    model.forward = blind
    policy = plan(model, "packed")
    assert policy.layout == "rows" and "its logits differ on packed rows" in policy.notices[0]


def trainer(folder, rows=None, tmp="unused", **options):
    arguments = {"ref_model": options.pop("ref_model", None)}
    args = LambdaDPOConfig(output_dir=tmp, report_to=[], use_cpu=True, **options)
    rows = datasets.Dataset.from_list(records(3)) if rows is None else rows
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return LambdaDPOTrainer(folder, args=args, train_dataset=rows, processing_class=tokenizer, **arguments)


def test_invalid_data_and_options_are_rejected(folder, tmp_path, monkeypatch):
    single = datasets.Dataset.from_list([{**row, "completions": row["completions"][:1]} for row in records(3)])
    unrated = [{"instruction": "Hi", "completions": [{"response": "a"}, {"response": "b"}]}] * 3
    for rows, problem in [
        (single, "None of the 3 records can be used: each needs at least two responses rated or ranked in the same dimension."),
        (single.to_iterable_dataset(), "The dataset is a IterableDataset, but λ-DPO needs to count its records"),
    ]:
        with pytest.raises(ConfigError, match=problem):
            trainer(folder, rows)
    with pytest.raises(InvalidInputError, match="no record rates the dimension `honesty`; dimensions in the records: none"):
        trainer(folder, datasets.Dataset.from_list(unrated), dimensions=["honesty"])
    with pytest.raises(ConfigError, match="None of the 3 records can be used: each needs at least two responses rated"):
        trainer(folder, datasets.Dataset.from_list(unrated))
    with pytest.raises(ConfigError, match="`paper_exact` means layout = expanded, but layout is packed"):
        trainer(folder, paper_exact=True, layout="packed")
    with pytest.raises(ConfigError, match="`reference_free` and a ref_model contradict each other"):
        trainer(folder, reference_free=True, ref_model=AutoModelForCausalLM.from_pretrained(folder))
    with pytest.raises(ConfigError, match="args is a TrainingArguments, but it must be a LambdaDPOConfig"):
        LambdaDPOTrainer(folder, args=TrainingArguments(output_dir=str(tmp_path), use_cpu=True))
    with pytest.raises(ConfigError, match="λ-DPO does not run under torch.nn.DataParallel: start one process per GPU"):
        LambdaDPOTrainer(torch.nn.DataParallel(AutoModelForCausalLM.from_pretrained(folder)))
    monkeypatch.setattr(LambdaDPOConfig, "n_gpu", property(lambda self: 2))
    with pytest.raises(ConfigError, match="λ-DPO does not run under torch.nn.DataParallel"):
        trainer(folder)
