"""Checks and measures the library and the program on a CUDA device; needs only PyTorch 2.11.0.

    python check.py               runs everything and prints the table for docs/benchmarks.md; without CUDA it says so
                                  and exits with 0
    python check.py --rehearse    the same on the CPU with a tiny model, to test the script; its times mean nothing

`make gpu-check` gathers this script, the built program and library, and everything they need in one folder that can be
copied to another machine.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
TORCH_VERSION = "2.11.0"
# Relative; about ten times the difference between the kernels of two CPUs in the same comparison.
TOLERANCES = {
    "float": {"loss_error": 1e-5, "gradient_error": 1e-4},
    "bfloat16": {"loss_error": 2e-2, "gradient_error": 1e-1},
}
# Dense bf16 tensor-core peaks from the vendor, TFLOP/s; the first name that occurs in the device's name is used.
PEAKS = {"H100 PCIe": 756, "H100": 989, "H200": 989, "B200": 2250, "A100": 312, "L40S": 362, "L4": 121, "4090": 165}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args()
    try:
        import torch
    except ModuleNotFoundError:
        print(f"PyTorch is missing: install torch {TORCH_VERSION} for this Python ({sys.executable}).")
        return 1
    if torch.__version__.split("+")[0] != TORCH_VERSION:
        print(f"This PyTorch is {torch.__version__}, but the library is built for {TORCH_VERSION}: install the latter.")
        return 1
    if not options.rehearse and not torch.cuda.is_available():
        print("No CUDA device is available to PyTorch on this machine: nothing was checked or measured.")
        return 0
    # The programs in this folder load the libtorch of this PyTorch.
    folders = [str(Path(torch.__file__).parent / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
    os.environ["LD_LIBRARY_PATH"] = ":".join(folder for folder in folders if folder)
    os.environ["LAMBDA_DPO_PLUGIN"] = str(HERE / "lib" / "liblambda_dpo.so")
    device = "cpu" if options.rehearse else "cuda"
    check_layouts(device)
    check_python(torch, device)
    with tempfile.TemporaryDirectory() as scratch:
        from program import check_program

        check_program(device, Path(scratch))
    with tempfile.TemporaryDirectory() as scratch:
        report(torch, [measure(torch, case, Path(scratch)) for case in cases(device, options.rehearse)])
    return 0


def check_layouts(device: str) -> None:
    """Compares loss and gradients of every layout and dtype on the device with float64 on the CPU."""
    answer = subprocess.run([HERE / "bin" / "bench", "layouts", device], stdout=subprocess.PIPE, text=True)
    if answer.returncode != 0:
        raise SystemExit("The program could not compute a gradient; its message is above.")
    for line in answer.stdout.splitlines():
        found = json.loads(line)
        case = f"{found['case']}, {found['layout']}, {found['dtype']}"
        for key, tolerance in TOLERANCES[found["dtype"]].items():
            # Not `>`, which NaN would pass.
            if not found[key] <= tolerance:
                raise SystemExit(f"{case}: {key} is {found[key]:.1e} on {device}, above {tolerance}.")
        print(f"ok: {case}: loss {found['loss_error']:.1e}, gradient {found['gradient_error']:.1e} off float64")


def check_python(torch, device: str) -> None:
    """Runs the library in this Python process, on tensors that a separate stream is still computing."""
    sys.path.insert(0, str(HERE / "python"))
    import lambda_dpo

    batch, hidden, lm_head, reference = listwise_example(torch)
    expected = torch_loss(torch, batch, hidden, lm_head, reference)
    expected_gradients = torch.autograd.grad(expected, [hidden, lm_head])
    moved = [tensor.detach().float().to(device) for tensor in (hidden, lm_head)]
    is_cuda = device == "cuda"
    streams = [torch.cuda.Stream(), torch.cuda.current_stream()] if is_cuda else [None]
    for stream in streams:
        with torch.cuda.stream(stream):
            if is_cuda:
                # The inputs depend on long-running work on this stream: another stream would read them too early.
                stream.wait_stream(torch.cuda.default_stream())
                late = torch.zeros(6000, 6000, device=device)
                for _ in range(20):
                    late = late @ late
                leaves = [(tensor + late[0, 0]).requires_grad_() for tensor in moved]
            else:
                leaves = [tensor.clone().requires_grad_() for tensor in moved]
            # The batch stays on the CPU, where the library reads it.
            output = lambda_dpo.lambda_dpo_loss(
                batch,
                hidden=leaves[0],
                lm_head=leaves[1],
                reference_log_probs=reference,
                beta=0.7,
                logits_budget_mib=1,
            )
            found = output.loss
            gradients = torch.autograd.grad(found, leaves)
        if is_cuda:
            torch.cuda.synchronize()
        if found.device.type != device or output.rewards.device.type != "cpu":
            raise SystemExit(f"The loss is on {found.device}, its metrics are on {output.rewards.device}.")
        errors = [relative(found, expected)]
        errors += [relative(one, other) for one, other in zip(gradients, expected_gradients)]
        name = "on the CPU" if not is_cuda else "on a separate stream" if stream is streams[0] else "on the default stream"
        if not max(errors) <= 1e-4:
            raise SystemExit(f"The loss in Python {name} differs from float64 by {errors} (loss, hidden, lm_head).")
        print(f"ok: the library inside Python {name}: {max(errors):.1e} off float64")


def relative(found, expected) -> float:
    found = found.detach().double().cpu()
    return ((found - expected).norm() / expected.norm()).item()


def listwise_example(torch):
    """Two prompts with three and two responses, two dimensions; float64 on the CPU."""
    torch.manual_seed(2)
    lengths, prompts, num_tokens, vocab_size, width = [5, 9, 3, 7, 4], [0, 3, 5], 64, 97, 32
    num_targets = sum(lengths)
    batch = {
        "target_positions": torch.randperm(num_tokens)[:num_targets].sort().values,
        "target_ids": torch.randint(vocab_size, (num_targets,)),
        "target_sequences": torch.repeat_interleave(torch.arange(5), torch.tensor(lengths)),
        "sequence_num_tokens": torch.tensor(lengths),
        "prompt_offsets": torch.tensor(prompts),
        "sequence_index": torch.arange(5).expand(2, 5).contiguous(),
        "pi_target": torch.tensor([[0.2, 0.5, 0.3, 0.9, 0.1], [0.6, 0.3, 0.1, 0.4, 0.6]]),
        "target_mask": torch.ones(2, 5, dtype=torch.bool),
        "lambda": torch.tensor([[0.25, 0.75], [0.5, 0.5]]),
    }
    hidden = torch.randn(num_tokens, width, dtype=torch.float64, requires_grad=True)
    lm_head = (torch.randn(vocab_size, width, dtype=torch.float64) / 4).requires_grad_()
    return batch, hidden, lm_head, -10 * torch.rand(5, dtype=torch.float64)


def torch_loss(torch, batch, hidden, lm_head, reference):
    """(15): sums of token log-probs, softmax over a prompt's responses, cross-entropy with the mixed target."""
    log_probs = (hidden[batch["target_positions"]] @ lm_head.T).log_softmax(-1)
    of_targets = log_probs.gather(1, batch["target_ids"][:, None]).squeeze(1)
    sums = torch.zeros(5, dtype=torch.float64).index_add(0, batch["target_sequences"], of_targets)
    rewards = 0.7 * (sums - reference)
    losses = []
    for prompt, (start, end) in enumerate(zip(batch["prompt_offsets"][:-1], batch["prompt_offsets"][1:])):
        mixed = (batch["lambda"][prompt, :, None] * batch["pi_target"][:, start:end]).sum(0)
        losses.append(-(mixed.double() * rewards[start:end].log_softmax(0)).sum())
    return torch.stack(losses).mean()


@dataclass
class Case:
    title: str
    scenario: object
    sides: tuple[str, ...]
    num_rounds: int


def cases(device: str, rehearse: bool) -> list[Case]:
    """A 1B and an 8B Llama with random weights in bf16; steps of 8 and 4 prompts."""
    from scenario import Scenario

    def scenario(name: str, **shape):
        return Scenario(name, device=device, dtype="bfloat16", draws_weights=True, **shape)

    if rehearse:
        tiny = dict(vocab_size=300, hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=96)
        tiny |= dict(prompt_length=20, response_lengths=(5, 9, 12, 30), num_prompts=2)
        return [
            Case("tiny, full", scenario("full", is_tied=True, **tiny), ("ours", "b", "c"), 2),
            Case("tiny, LoRA", scenario("lora", lora_rank=4, checkpointing=True, **tiny), ("ours", "b", "c"), 2),
        ]
    one = dict(vocab_size=128_256, hidden_size=2048, num_layers=16, num_heads=32, num_kv_heads=8, intermediate_size=8192)
    one |= dict(is_tied=True, num_prompts=8)
    eight = dict(vocab_size=128_256, hidden_size=4096, num_layers=32, num_heads=32, num_kv_heads=8)
    eight |= dict(intermediate_size=14_336, num_prompts=4, lora_rank=16, checkpointing=True)
    return [
        Case("1B, full", scenario("1b-full", **one), ("ours", "b", "c"), 5),
        Case("1B, LoRA", scenario("1b-lora", lora_rank=16, **one), ("ours", "b", "c"), 5),
        Case("8B, LoRA", scenario("8b-lora", **eight), ("ours", "b", "c"), 3),
    ]


def measure(torch, case: Case, scratch: Path) -> dict:
    """Measures the median step time and the device memory of each side, one process after the other."""
    from sides import Side

    scenario = case.scenario
    folder = scenario.write(scratch)
    run = {name: getattr(scenario, name) for name in ("device", "dtype", "lora_rank", "checkpointing")}
    (folder / "gpu.json").write_text(json.dumps(run))
    found = {"title": case.title, "scenario": scenario, "sides": {}}
    for name in case.sides:
        print(f"measuring {case.title}: {name} ...", flush=True)
        used_before = used_bytes(torch, scenario.device)
        ours = [HERE / "bin" / "bench", "step", folder]
        side = Side(name, ours if name == "ours" else [sys.executable, HERE / "llama.py", name, folder])
        try:
            for _ in range(2):
                side.ask("step")
            answers = [side.ask("step") for _ in range(case.num_rounds)]
            # The allocators keep the memory that a step used at its peak.
            used = used_bytes(torch, scenario.device) - used_before
        finally:
            side.close()
        if not all(answer["loss"] > 0 and answer["grad_norm"] > 0 for answer in answers):
            raise SystemExit(f"{case.title}: a loss or gradient norm of {name} is not a positive number: {answers}.")
        found["sides"][name] = {"seconds": [answer["seconds"] for answer in answers], "bytes": used}
        time.sleep(1)
    return found


def used_bytes(torch, device: str) -> int:
    if device == "cpu":
        return 0
    free, total = torch.cuda.mem_get_info()
    return total - free


def matmul_rate(torch, device: str) -> float:
    """FLOP/s of a large bf16 product."""
    size = 8192 if device == "cuda" else 256
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(8):
        started = time.perf_counter()
        left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / statistics.median(seconds[3:])


def report(torch, results: list[dict]) -> None:
    device = results[0]["scenario"].device
    name = torch.cuda.get_device_name() if device == "cuda" else f"{platform.processor() or 'CPU'} (a rehearsal)"
    peak = next((peak * 1e12 for key, peak in PEAKS.items() if key in name), None)
    rate = matmul_rate(torch, device)
    print(f"\n{name}, torch {torch.__version__}, bf16; an 8192³ product reaches {rate / 1e12:.0f} TFLOP/s.\n")
    print("| step | side | median s | spread s | unique tokens/s | TFLOP/s | of the product's rate | MFU | device MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for result in results:
        scenario = result["scenario"]
        for side, found in result["sides"].items():
            median = statistics.median(found["seconds"])
            # The work that the method needs, even if a side does more than that.
            flops = scenario.step_flops(scenario.chain_pairs() if side == "c" else scenario.tree_pairs()) / median
            cells = [
                result["title"],
                side if side == "ours" else f"({side})",
                f"{median:.3f}",
                f"{min(found['seconds']):.3f} to {max(found['seconds']):.3f}",
                f"{scenario.num_unique_tokens / median:,.0f}",
                f"{flops / 1e12:.1f}",
                f"{100 * flops / rate:.0f} %",
                f"{100 * flops / peak:.0f} %" if peak else "",
                f"{found['bytes'] / 2**20:,.0f}",
            ]
            print("| " + " | ".join(cells) + " |")
    print("\nFLOPs count every product of the method once, without recomputed layers and duplicate rows.")


if __name__ == "__main__":
    sys.exit(main())
