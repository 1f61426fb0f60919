"""One of two processes between which a model is sharded (FSDP): its gradients must be those of the whole model."""

import copy
import sys

import torch
from peft import LoraConfig, get_peft_model
from processes import leave, reduce_by_sums
from tiny import records
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM

from lambda_dpo import LambdaLoraConfig, LambdaSchedule, ListwiseCollator, SampleTokenizer, convert, lambda_dpo_loss
from lambda_dpo.adapters import batch_lambda
from lambda_dpo.policy import plan


def adapted(model, kind, dimensions):
    """The model with an adapter that does something, unless `kind` is "full"."""
    if kind == "full":
        return model
    torch.manual_seed(0)
    if kind == "lora":
        return get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    return get_peft_model(model, LambdaLoraConfig(r=2, dimensions=dimensions, init_lora_weights=False))


def backward(policy, model, batch, normalizer):
    def compute(**given):
        return lambda_dpo_loss(batch, normalizer=normalizer, **given).loss

    loss = policy.run(model, batch, torch.float32, compute)
    loss.backward()
    return loss.item()


def main(folder, kind):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    samples = convert(records(4))
    dimensions = list(samples[0]["dimensions"])
    model = adapted(AutoModelForCausalLM.from_pretrained(folder), kind, dimensions)
    tokenizer = SampleTokenizer(folder)
    features = [tokenizer.tokenize(sample) for sample in samples]
    weights = LambdaSchedule(dimensions).draw(0, 0, range(4))
    collator = ListwiseCollator()
    whole = copy.deepcopy(model)
    policy, batch = plan(whole, "packed"), collator(features, weights)
    batch_lambda(whole, dimensions).show(batch, "packed")
    expected = backward(policy, whole, batch, 4)

    policy = plan(model, "packed")
    assert policy.head is not None
    mesh = init_device_mesh("cpu", (2,))
    base = model if kind == "full" else model.get_base_model()
    half = slice(2 * rank, 2 * rank + 2)
    batch = collator(features[half], weights[half])
    batch_lambda(model, dimensions).show(batch, "packed")
    for layer in base.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    reduce_by_sums(model)
    assert base.lm_head.weight.to_local().numel() < whole.get_output_embeddings().weight.numel()
    # Gradients are averaged over the processes, so each divides its loss by its own half of the prompts.
    loss = torch.tensor(backward(policy, model, batch, 2))
    torch.distributed.all_reduce(loss)
    torch.testing.assert_close(loss.item() / 2, expected, atol=1e-6, rtol=0)
    theirs = dict(whole.named_parameters())
    compared = 0
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad.full_tensor(), theirs[name].grad, atol=1e-6, rtol=1e-4)
            compared += 1
    assert compared == sum(parameter.grad is not None for parameter in theirs.values()) > 10
    leave()


main(*sys.argv[1:])
