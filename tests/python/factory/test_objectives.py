"""The transcription that golden values come from, compared with the losses of TRL and LLaMA-Factory; and training with
ORPO and SimPO, compared with LLaMA-Factory's own.
"""

import importlib.util
import math
from types import SimpleNamespace

import pytest
import torch
from tiny import ROOT, host_losses, make_model, pairs, rated

from llamafactory.train.dpo.trainer import CustomDPOTrainer
from trl import CPOTrainer, DPOTrainer, ORPOTrainer

# ---- losses of pairs ----

GOLDENS = ROOT / "fixtures" / "golden" / "objectives" / "make_goldens.py"


@pytest.fixture(scope="module")
def goldens():
    spec = importlib.util.spec_from_file_location("make_goldens", GOLDENS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def log_probs(num_pairs=64):
    """[2, pairs] mean log-probs of chosen and rejected answers under policy and reference."""
    generator = torch.Generator().manual_seed(3)
    draw = lambda: -(0.01 + 3 * torch.rand(2, num_pairs, generator=generator, dtype=torch.float64))  # noqa: E731
    return draw().requires_grad_(), draw()


def theirs(objective, policy, reference, **options):
    """Losses `[pairs]` of LLaMA-Factory, whose trainer inherits those with a reference from TRL's, and of TRL."""
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(device=torch.device("cpu")),
        finetuning_args=SimpleNamespace(use_ref_model=objective not in ("simpo", "orpo")),
        loss_type=objective,
        f_divergence_type="reverse_kl",
        reference_free=False,
        bco_gemma=0.0,
        alpha=0.0,
        **{"beta": 0.1, "label_smoothing": 0.0, "simpo_gamma": 0.5, **options},
    )
    trainer.simpo_loss = lambda *given: CustomDPOTrainer.simpo_loss(trainer, *given)
    trainer.odds_ratio_loss = lambda *given: CustomDPOTrainer.odds_ratio_loss(trainer, *given)
    # LLaMA-Factory does not pass the name on, see test_hinge_and_ipo_of_llama_factory_are_sigmoid.
    trainer.dpo_loss = lambda *given: DPOTrainer.dpo_loss(trainer, *given, loss_type=objective)
    found = {"LLaMA-Factory": CustomDPOTrainer.compute_preference_loss(trainer, *policy, *reference)[0]}
    if objective == "simpo":
        found["TRL"] = CPOTrainer.cpo_loss(trainer, *policy)[0]
    if objective == "orpo":
        # TRL adds the likelihood of prompt and answer; here it is that of the answer, as in LLaMA-Factory.
        found["TRL"] = -policy[0] - ORPOTrainer.odds_ratio_loss(trainer, *policy)[0]
    return found


@pytest.mark.parametrize(
    ("objective", "options"),
    [
        ("sigmoid", {}),
        ("sigmoid", {"label_smoothing": 0.2}),
        ("hinge", {"beta": 0.7}),
        ("ipo", {"beta": 0.3}),
        ("simpo", {"beta": 2.0, "simpo_gamma": 0.5}),
        ("simpo", {"beta": 2.5, "simpo_gamma": 1.4}),
        ("orpo", {}),
        ("orpo", {"beta": 1.5}),
    ],
)
def test_the_transcription_equals_their_losses(goldens, objective, options):
    policy, reference = log_probs()
    case = {**goldens.OPTIONS, "objective": objective, "ranks": False, "reduction": "mean", "simpo_gamma": 0.5}
    case |= {"beta": 0.1, **options}
    s_ref = torch.zeros_like(reference) if objective in goldens.WITHOUT_REFERENCE else reference
    target, ranks = torch.tensor([1.0, 0.0]), torch.tensor([1, 2])
    ours = torch.stack(
        [
            goldens.dimension_loss(policy[:, pair], s_ref[:, pair], target, ranks, case)
            for pair in range(policy.shape[1])
        ]
    )
    (gradient,) = torch.autograd.grad(ours.sum(), policy)
    for whose, expected in theirs(objective, policy, reference, **options).items():
        torch.testing.assert_close(ours, expected, atol=1e-12, rtol=1e-12, msg=lambda text, whose=whose: f"{whose}: {text}")
        (theirs_gradient,) = torch.autograd.grad(expected.sum(), policy)
        torch.testing.assert_close(gradient, theirs_gradient, atol=1e-12, rtol=1e-11)


# ---- training ----

STEPS = 20
#: By objective: options as LLaMA-Factory's keys, and the program's `[loss]`.
RUNS = {
    "simpo": ({"pref_beta": 2.0, "simpo_gamma": 0.5}, "beta = 2.0\nsimpo_gamma = 0.5"),
    "orpo": ({"pref_beta": 0.1}, "beta = 0.1"),
    "orpo with pref_ftx": ({"pref_beta": 0.5, "pref_ftx": 0.2}, "beta = 0.5\nsft_weight = 0.2"),
    "sigmoid with pref_ftx": ({"pref_beta": 0.1, "pref_ftx": 0.3}, "beta = 0.1\nsft_weight = 0.3"),
}


def losses(log):
    return [row["loss"] for row in log if "loss" in row]


@pytest.mark.parametrize("name", RUNS)
def test_training_has_the_losses_of_llama_factory(factory, name):
    """LLaMA-Factory's own loss, the program, and our loss in LLaMA-Factory, from the same weights and pairs.

    Every step has all pairs, so that their order does not matter.
    """
    keys, loss = RUNS[name]
    objective = name.split()[0]
    model = make_model(factory.folder / "model")
    rows = pairs(24)
    factory.write("pairs", rows, {"ranking": True, "columns": {name: name for name in rows[0]}})
    factory.write("rated", rated(rows), {"formatting": "ultrafeedback"})
    options = {"max_steps": STEPS, "per_device_train_batch_size": len(rows), **keys}

    own = losses(factory.trained(factory.config(model, out="own", dataset="pairs", pref_loss=objective, **options), out="own"))
    assert len(own) == STEPS and own[0] - own[-1] > 0.05, "training must have moved the loss for this to mean something"
    found = {
        "the program": host_losses(
            factory.folder / "host",
            model,
            rows,
            steps=STEPS,
            learning_rate=2e-3,
            stage="dpo",
            data='format = "pairs"',
            loss=f'kind = "{objective}"\n{loss}',
        ),
        "the package": losses(
            factory.trained(
                factory.config(model, out="ours", dataset="rated", lambda_loss_type=objective, **options), out="ours"
            )
        ),
    }
    for whose, curve in found.items():
        torch.testing.assert_close(curve, own, atol=1e-5, rtol=0, msg=lambda text, whose=whose: f"{whose}: {text}")


@pytest.mark.parametrize(("objective", "at_the_start"), [("hinge", 1.0), ("ipo", (1 / (2 * 0.1)) ** 2)])
def test_hinge_and_ipo_of_llama_factory_are_sigmoid(factory, objective, at_the_start):
    """Its trainer calls TRL's `dpo_loss` without the loss's name, so these two cannot be compared by training."""
    model = make_model(factory.folder / "model")
    rows = pairs(4)
    factory.write("pairs", rows, {"ranking": True, "columns": {name: name for name in rows[0]}})
    factory.write("rated", rated(rows), {"formatting": "ultrafeedback"})
    options = {"max_steps": 1, "per_device_train_batch_size": len(rows)}
    own = factory.trained(factory.config(model, out="own", dataset="pairs", pref_loss=objective, **options), out="own")
    assert abs(losses(own)[0] - math.log(2)) < 1e-6
    ours = factory.trained(
        factory.config(model, out="ours", dataset="rated", lambda_loss_type=objective, **options), out="ours"
    )
    assert abs(losses(ours)[0] - at_the_start) < 1e-5
