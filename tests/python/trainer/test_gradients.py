"""Gradients, compared with finite differences in float64 and, for every parameter, with Appendix B in plain PyTorch."""

import json

import pytest
import torch
import torch.nn.functional as F
from tiny import DIMENSIONS, make_model, records
from transformers import AutoModelForCausalLM

from lambda_dpo import (
    ConvertOptions,
    LambdaSchedule,
    ListwiseCollator,
    SampleTokenizer,
    convert,
    lambda_dpo_loss,
    sequence_log_probs,
    with_lambda,
)
from lambda_dpo.policy import plan


def features(folder, rows, **options):
    tokenizer = SampleTokenizer(folder)
    return [tokenizer.tokenize(sample) for sample in convert(rows, ConvertOptions(dimensions=DIMENSIONS, **options))]


def small_batch(layout="packed"):
    feature = {
        "record": 0,
        "prompt_ids": [1, 2],
        "response_ids": [[3, 4], [5], [2, 6, 1]],
        "response_indices": [0, 1, 2],
        "pi_target": [[0.5, 0.2, 0.3], [0.6, None, 0.4], [None, None, 1.0]],
    }
    other = {**feature, "record": 1, "response_ids": [[6], [2, 2]], "response_indices": [0, 1]}
    other["pi_target"] = [[0.9, 0.1], [0.5, 0.5], [0.3, 0.7]]
    weights = torch.tensor([[0.2, 0.3, 0.5], [0.1, 0.6, 0.3]])
    return ListwiseCollator(layout=layout, pad_to_multiple_of=1)([feature, other], weights)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("given", ["hidden", "frozen head", "logits", "log_probs"])
def test_gradcheck(given, reduction):
    batch = small_batch()
    torch.manual_seed(0)
    rows = batch["input_ids"].shape
    reference = torch.randn(5, dtype=torch.float64)

    def loss(**inputs):
        return lambda_dpo_loss(batch, reference_log_probs=reference, beta=0.7, reduction=reduction, **inputs).loss

    def random(*shape, grad=True):
        return torch.randn(*shape, dtype=torch.float64).requires_grad_(grad)

    if given in ("hidden", "frozen head"):
        inputs = (random(*rows, 3), random(8, 3, grad=given == "hidden"))
        assert torch.autograd.gradcheck(lambda hidden, head: loss(hidden=hidden, lm_head=head), inputs)
    elif given == "logits":
        assert torch.autograd.gradcheck(lambda logits: loss(logits=logits), (random(*rows, 8),))
    else:
        assert torch.autograd.gradcheck(lambda log_probs: loss(log_probs=log_probs), (random(5),))


def test_the_gradient_scales_with_the_output_gradient():
    log_probs = torch.randn(5, requires_grad=True)
    lambda_dpo_loss(small_batch(), log_probs=log_probs).loss.backward()
    once = log_probs.grad.clone()
    log_probs.grad = None
    (lambda_dpo_loss(small_batch(), log_probs=log_probs).loss * -3).backward()
    torch.testing.assert_close(log_probs.grad, -3 * once)
    log_probs.grad = None
    loss = lambda_dpo_loss(small_batch(), log_probs=log_probs).loss
    loss.backward(retain_graph=True)
    loss.backward()
    torch.testing.assert_close(log_probs.grad, 2 * once)


def test_tensors_are_passed_without_copies():
    """The library reads inputs in place, strided or not."""
    batch = small_batch()
    wide = torch.randn(*batch["input_ids"].shape, 6)
    hidden, head = wide[..., ::2], torch.randn(3, 8).T
    expected = lambda_dpo_loss(batch, hidden=hidden.contiguous(), lm_head=head.contiguous())
    found = lambda_dpo_loss(batch, hidden=hidden, lm_head=head)
    torch.testing.assert_close(found.loss, expected.loss, atol=0, rtol=0)
    from lambda_dpo import _abi, _native

    lent = _native.Lent()
    pointer = lent.pointer(wide)
    import ctypes

    managed = ctypes.cast(pointer, ctypes.POINTER(_abi.DLManagedTensorVersioned)).contents
    assert managed.dl_tensor.data == wide.data_ptr()


def test_only_the_models_fields_go_to_its_device():
    batch = small_batch()
    moved = with_lambda(batch, torch.tensor([0.5, 0.25, 0.25])).to("meta")
    of_model = {"input_ids", "attention_mask", "position_ids", "prompt_ids", "sequence_ids"}
    assert {name for name, tensor in moved.items() if tensor.device.type == "meta"} == of_model
    assert {name for name, tensor in moved.items() if tensor.device.type == "cpu"} == set(batch) - of_model
    from accelerate.utils import send_to_device

    assert send_to_device(batch, "meta")["target_ids"].device.type == "cpu"


def test_the_library_reads_small_inputs_on_the_cpu(monkeypatch):
    """Whatever the device of the hidden states: "meta" stands for a GPU, whose tensors cannot be lent here."""
    from lambda_dpo import _abi, _native
    from lambda_dpo.loss import _Call

    lent = []
    monkeypatch.setattr(_native.Lent, "pointer", lambda self, tensor: lent.append(tensor.device.type))
    batch = small_batch()
    call = _Call(batch, torch.zeros(5), _abi.LossOptions(beta=0.1), "sum", None, 256)
    hidden, head = torch.empty(*batch["input_ids"].shape, 16, device="meta"), torch.empty(8, 16, device="meta")
    call._inputs(_native.Lent(), (hidden, head, None, None), preferences=True)
    assert lent == ["meta", "meta"] + ["cpu"] * 10


def test_a_budget_that_nobody_set_follows_the_device(monkeypatch):
    from lambda_dpo.loss import _default_budget_bytes

    mib = 1 << 20
    for free, expected in {80_000: 2048, 79_000: 2048, 24_000: 512, 1_000: 256}.items():
        _default_budget_bytes.cache_clear()
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free * mib, 0))
        assert _default_budget_bytes(torch.device("cuda", 0)) == expected * mib
    assert _default_budget_bytes(torch.device("cpu")) == 0
    _default_budget_bytes.cache_clear()


def test_every_dtype_that_models_have():
    torch.manual_seed(0)
    batch = small_batch()
    hidden, head = torch.randn(*batch["input_ids"].shape, 16), torch.randn(8, 16) * 0.2
    exact, _ = sequence_log_probs(batch, hidden=hidden.double(), lm_head=head.double())
    for dtype, tolerance in {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}.items():
        found, _ = sequence_log_probs(batch, hidden=hidden.to(dtype), lm_head=head)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), exact, atol=tolerance, rtol=0)


def appendix_b(model, reference, samples, weights, beta):
    """The paper's loss as in its Appendix B: M·N rows per prompt, labels, means, one cross-entropy per dimension."""
    num_dimensions, num_responses = len(DIMENSIONS), len(samples[0]["response_ids"])
    rows = [
        (sample["prompt_ids"], ids) for sample in samples for _ in DIMENSIONS for ids in sample["response_ids"]
    ]
    length = max(len(prompt) + len(ids) for prompt, ids in rows)
    input_ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask, labels = torch.zeros_like(input_ids), torch.full_like(input_ids, -100)
    for row, (prompt, ids) in enumerate(rows):
        end = len(prompt) + len(ids)
        input_ids[row, :end] = torch.tensor(prompt + ids)
        mask[row, :end] = 1
        labels[row, len(prompt) : end] = torch.tensor(ids)

    def log_probs(policy):
        logits = policy(input_ids=input_ids, attention_mask=mask).logits[:, :-1]
        targets = labels[:, 1:]
        is_target = targets != -100
        tokens = logits.log_softmax(-1).gather(2, targets.clamp(min=0)[..., None])[..., 0]
        return (tokens * is_target).sum(-1) / is_target.sum(-1)

    with torch.no_grad():
        s_ref = log_probs(reference)
    rewards = (beta * (log_probs(model) - s_ref)).view(len(samples), num_dimensions, num_responses)
    targets = torch.tensor([sample["pi_target"] for sample in samples]) + 1e-10
    losses = -(targets * F.log_softmax(rewards, dim=-1)).sum(-1)  # [B, M]
    return (losses.mean(0) * weights).sum()


@pytest.mark.parametrize("layout", ["packed", "rows", "expanded"])
@pytest.mark.parametrize("family", ["llama3", "qwen"])
def test_gradients_of_every_parameter_are_appendix_bs(tmp_path, family, layout):
    folder = make_model(tmp_path / "model", family)
    rows = [record for record in records(60) if len(record["completions"]) == 4][:4]
    samples = features(folder, rows, missing_rating=1.0)
    reference = AutoModelForCausalLM.from_pretrained(make_model(tmp_path / "reference", family, seed=1))
    model = AutoModelForCausalLM.from_pretrained(folder)
    weights = LambdaSchedule(DIMENSIONS, "uniform_normalized").draw_step(0, 0)

    appendix_b(model, reference, samples, weights.float(), beta=2.0).backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()

    batch = ListwiseCollator(layout=layout)(samples, weights)
    policy, reference_policy = plan(model, layout), plan(reference, layout)
    assert policy.layout == layout and policy.head is model.lm_head
    with torch.no_grad():
        s_ref = reference_policy.run(
            reference, batch, torch.float32, lambda **given: sequence_log_probs(batch, reduction="mean", **given)[1]
        )
    options = {"reference_log_probs": s_ref, "beta": 2.0, "reduction": "mean", "paper_exact": True}
    policy.run(model, batch, torch.float32, lambda **given: lambda_dpo_loss(batch, **given, **options).loss).backward()
    for name, parameter in model.named_parameters():
        error = (parameter.grad - expected[name]).norm() / expected[name].norm()
        assert error < 1e-5, (name, error)


def test_lambda_is_renormalised_as_the_library_does(folder):
    rows = json.loads(json.dumps(records(6)))
    for completion in rows[0]["completions"][1:]:
        completion["annotations"]["honesty"]["Rating"] = "N/A"
    samples = features(folder, rows)
    schedule = LambdaSchedule(DIMENSIONS)
    drawn = schedule.draw(7, 3, [sample["record"] for sample in samples])
    for layout in ("packed", "rows", "expanded"):
        collator = ListwiseCollator(layout=layout)
        expected = collator(samples, drawn)
        torch.testing.assert_close(with_lambda(collator(samples), drawn)["lambda"], expected["lambda"], atol=1e-7, rtol=0)
    assert expected["lambda"][0, DIMENSIONS.index("honesty")] == 0
