//! Choices of the run config only; those that it shares with the plugin are in `lambda-dpo-concepts`.

use lambda_dpo_concepts::{Objective, words};

words! {
    /// What a run does.
    Stage {
        /// Supervised fine-tuning on conversations.
        Sft = "sft",
        /// Pairwise DPO (6).
        Dpo = "dpo",
        /// λ-weighted listwise DPO (15).
        LambdaDpo = "lambda_dpo",
    }
}

impl Stage {
    /// Returns the objectives that the stage can have; the first is its default.
    pub const fn objectives(self) -> &'static [Objective] {
        match self {
            Self::Sft => &[Objective::Sft],
            Self::Dpo => &[Objective::Sigmoid, Objective::Hinge, Objective::Ipo, Objective::Simpo, Objective::Orpo],
            Self::LambdaDpo => &[Objective::Listwise, Objective::PlackettLuce],
        }
    }
}

words! {
    /// Where a run's first weights come from.
    Init {
        /// The folder's weights.
        Pretrained = "pretrained",
        /// Hugging Face's initialisation, seeded; the folder needs `config.json` and tokenizer only.
        Random = "random",
    }
}

words! {
    /// The dtype of the weights and of the forward.
    DType {
        /// float32.
        Float32 = "float32",
        /// bfloat16, with float32 optimiser state and master weights.
        BFloat16 = "bfloat16",
    }
}

impl From<DType> for tch::Kind {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::Float32 => Self::Float,
            DType::BFloat16 => Self::BFloat16,
        }
    }
}

words! {
    /// How weights of linear layers are quantised as they are loaded.
    Quantization {
        /// 4-bit NormalFloat in blocks of 64 with quantised scales, as bitsandbytes does it.
        Nf4 = "nf4",
    }
}

words! {
    /// The kind of adapter.
    AdapterKind {
        /// LoRA, as PEFT writes it.
        Lora = "lora",
        /// A shared LoRA and one for each dimension, scaled by the prompt's λ.
        LambdaLora = "lambda_lora",
    }
}

words! {
    /// What s^ref is.
    ReferenceKind {
        /// `adapter_off` where there is an adapter, else `model`.
        Auto = "auto",
        /// The weights at the start, or those of `reference.path`.
        Model = "model",
        /// The policy with its adapter switched off.
        AdapterOff = "adapter_off",
        /// The graph of `reference.path`, run by ONNX Runtime.
        Onnx = "onnx",
        /// The module of `reference.path`.
        TorchScript = "torchscript",
        /// s^ref = 0.
        None = "none",
    }
}

words! {
    /// How λ is drawn.
    Schedule {
        /// λ ~ Dir(α·1).
        Dirichlet = "dirichlet",
        /// λ = u / Σ u with u uniform on (0, 1)^M.
        UniformNormalized = "uniform_normalized",
        /// λ from a normal vector, see [`Normalization`].
        Gaussian = "gaussian",
        /// One-hot.
        Unimodal = "unimodal",
        /// Always `lambda.weights`.
        Fixed = "fixed",
        /// A row of `lambda.table`, by probability.
        Table = "table",
    }
}

words! {
    /// How the Gaussian schedule puts z ~ N(0, I) on the simplex.
    Normalization {
        /// softmax(z).
        Softmax = "softmax",
        /// |z| / Σ |z|.
        Abs = "abs",
    }
}

words! {
    /// How often λ is drawn.
    Per {
        /// Once for each prompt of each epoch.
        Instance = "instance",
        /// Once for each optimiser step, as Appendix B.
        Step = "step",
    }
}

words! {
    /// How the learning rate moves.
    LrSchedulerType {
        /// Warm-up, then constant.
        Constant = "constant",
        /// The same, under Transformers' name for it.
        ConstantWithWarmup = "constant_with_warmup",
        /// Warm-up, then linearly to 0.
        Linear = "linear",
        /// Warm-up, then half a cosine to 0.
        Cosine = "cosine",
    }
}
