"""λ-DPO of a model on UltraFeedback: `python train.py`, `torchrun train.py` or `accelerate launch train.py`."""

from datasets import load_dataset
from peft import LoraConfig

from lambda_dpo import LambdaDPOConfig, LambdaDPOTrainer

dataset = load_dataset("openbmb/UltraFeedback", split="train").train_test_split(0.01, seed=42)
args = LambdaDPOConfig(
    output_dir="runs/llama-3.1-8b",
    beta=0.1,
    exclude_sources=["truthful_qa"],  # TruthfulQA's prompts, left out so that you can evaluate on TruthfulQA.
    learning_rate=2e-5,
    num_train_epochs=1,
    per_device_train_batch_size=2,  # Prompts, each with all its answers.
    gradient_accumulation_steps=16,
    gradient_checkpointing=True,
    bf16=True,
    eval_strategy="epoch",
    model_init_kwargs={"dtype": "bfloat16"},
)
trainer = LambdaDPOTrainer(
    "meta-llama/Llama-3.1-8B-Instruct",
    args=args,
    train_dataset=dataset["train"],
    eval_dataset=dataset["test"],
    peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
)
trainer.train()
trainer.save_model()
