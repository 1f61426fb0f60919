"""The steps in plain PyTorch that the program's step is compared with. One process serves one of them:

    python oracles.py ORACLE SCENARIO_FOLDER

a      Appendix B as written: M x N rows per prompt, logits at every position, the reference model run in each step
b      the same without the duplicate rows
c      the floor: an SFT step on the same unique tokens, [prompt][y1]..[yN] as one causal sequence, logits only at its
       targets
c-hf   the same floor with Transformers' decoder, to show that the decoder of c is not slower

a and b run Transformers' LlamaForCausalLM with scaled_dot_product_attention, with adapters from PEFT. All use the fused
AdamW and clip to the same norm. `serving.py` describes the protocol.
"""

import json
import sys
import time
from pathlib import Path

import torch
from peft import PeftModel
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from floor import Floor
from serving import serve

IGNORE_INDEX = -100
PAD_MULTIPLE = 8


def load_model(folder: Path, dtype: str = "float32") -> LlamaForCausalLM:
    model = LlamaForCausalLM.from_pretrained(folder, attn_implementation="sdpa", dtype=getattr(torch, dtype))
    model.config.use_cache = False
    return model


class ListwiseOracle:
    """Appendix B, with `copies` of each response: one for each dimension as in the paper, or 1."""

    def __init__(self, folder: Path, settings: dict, copies: int):
        self.copies, self.settings = copies, settings
        self.num_responses = len(settings["prompts"][0]["responses"])
        self.model = load_model(folder / "model", settings["dtype"])
        self.lora = (folder / "adapter").exists()
        if self.lora:
            self.model = PeftModel.from_pretrained(self.model, folder / "adapter", is_trainable=True)
            self.reference = None
        else:
            self.reference = load_model(folder / "reference", settings["dtype"]).requires_grad_(False).eval()
        self.model.train()
        self.input_ids, self.attention_mask, self.labels = self.rows(settings["prompts"])
        self.pi_target = torch.tensor([prompt["pi_target"] for prompt in settings["prompts"]])
        self.weights = torch.tensor(settings["lambda"])

    def rows(self, prompts: list) -> tuple[torch.Tensor, ...]:
        """[rows, T], ordered by prompt, copy and response, padded to a multiple of 8."""
        rows = [
            (prompt["prompt"], response)
            for prompt in prompts
            for _ in range(self.copies)
            for response in prompt["responses"]
        ]
        longest = max(len(prompt) + len(response) for prompt, response in rows)
        width = -(-longest // PAD_MULTIPLE) * PAD_MULTIPLE
        input_ids = torch.zeros((len(rows), width), dtype=torch.long)
        attention_mask = torch.zeros_like(input_ids)
        labels = torch.full_like(input_ids, IGNORE_INDEX)
        for row, (prompt, response) in enumerate(rows):
            end = len(prompt) + len(response)
            input_ids[row, :end] = torch.tensor(prompt + response)
            attention_mask[row, :end] = 1
            labels[row, len(prompt) : end] = torch.tensor(response)
        return input_ids, attention_mask, labels

    def mean_log_probs(self, model) -> torch.Tensor:
        """[rows] as in B.1: logits at every position, a log-softmax over all of them, then the labels' entries.

        The log-softmax is in float32 in a bfloat16 model, too, as LLaMA-Factory's is.
        """
        logits = model(input_ids=self.input_ids, attention_mask=self.attention_mask).logits
        log_probs = F.log_softmax(logits[:, :-1], dim=-1, dtype=torch.float32)
        targets = self.labels[:, 1:].clone()
        mask = targets != IGNORE_INDEX
        targets[~mask] = 0
        token_log_probs = torch.gather(log_probs, dim=2, index=targets.unsqueeze(-1)).squeeze(-1)
        return (token_log_probs * mask).sum(dim=1) / mask.sum(dim=1)

    def reference_log_probs(self) -> torch.Tensor:
        with torch.no_grad():
            if self.lora:
                with self.model.disable_adapter():
                    return self.mean_log_probs(self.model)
            return self.mean_log_probs(self.reference)

    def loss(self) -> torch.Tensor:
        log_probs = self.mean_log_probs(self.model)
        rewards = self.settings["beta"] * (log_probs - self.reference_log_probs())
        num_dimensions = len(self.weights)
        rewards = rewards.view(-1, self.copies, self.num_responses).expand(-1, num_dimensions, -1)
        losses = []
        for dimension in range(num_dimensions):
            of_dimension = rewards[:, dimension]
            target = self.pi_target[:, dimension] + 1e-10
            log_policy = of_dimension - torch.logsumexp(of_dimension, dim=1, keepdim=True)
            losses.append(-(target * log_policy).sum(dim=1).mean())
        return sum(weight * loss for weight, loss in zip(self.weights, losses))

    def parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]


class SftOracle:
    """Mean negative log-likelihood of the responses, with each prompt and its responses as one causal sequence."""

    def __init__(self, folder: Path, settings: dict, transformers: bool):
        self.decoder = None
        if transformers:
            self.decoder = load_model(folder / "model").train()
        else:
            self.floor = Floor(folder / "model")
        rows = [prompt["prompt"] + sum(prompt["responses"], []) for prompt in settings["prompts"]]
        self.input_ids = torch.tensor(rows)
        length = len(settings["prompts"][0]["prompt"])
        # [R, T]: positions from the last of the prompt up to the last but one of the row predict a response's token.
        predicts = torch.zeros(self.input_ids.shape, dtype=torch.bool)
        predicts[:, length - 1 : -1] = True
        self.positions = predicts.flatten().nonzero().squeeze(1)
        self.targets = self.input_ids[:, length:].flatten()

    def loss(self) -> torch.Tensor:
        if self.decoder is None:
            return self.floor.loss(self.input_ids, self.positions, self.targets)
        hidden = self.decoder.model(input_ids=self.input_ids).last_hidden_state
        logits = self.decoder.lm_head(hidden.flatten(0, 1).index_select(0, self.positions))
        return F.cross_entropy(logits, self.targets)

    def parameters(self) -> list[torch.nn.Parameter]:
        return list((self.decoder or self.floor).parameters())


def make_oracle(name: str, folder: Path):
    settings = json.loads((folder / "tokens.json").read_text())
    makers = {
        "a": lambda: ListwiseOracle(folder, settings, len(settings["lambda"])),
        "b": lambda: ListwiseOracle(folder, settings, 1),
        "c": lambda: SftOracle(folder, settings, transformers=False),
        "c-hf": lambda: SftOracle(folder, settings, transformers=True),
    }
    return makers[name](), settings


class Learner:
    """Training step of an oracle: backward, clipping and update."""

    def __init__(self, oracle, settings: dict):
        self.oracle, self.max_grad_norm = oracle, settings["max_grad_norm"]
        self.parameters = oracle.parameters()
        self.optimizer = torch.optim.AdamW(self.parameters, lr=settings["learning_rate"], weight_decay=0.0, fused=True)

    def step(self) -> dict:
        started = time.perf_counter()
        loss = self.oracle.loss()
        loss.backward()
        grad_norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "loss": loss.item(), "grad_norm": grad_norm.item()}


if __name__ == "__main__":
    serve({"step": Learner(*make_oracle(sys.argv[1], Path(sys.argv[2]))).step})
