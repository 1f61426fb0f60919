//! Values that are one word out of a few. An unknown word is answered with the known ones.

/// Declares an enum whose variants are written as words, with `name`, serde in both directions, `Display`, and a schema.
macro_rules! choices {
    (
        $(#[doc = $doc:literal])+
        $name:ident { $( $(#[doc = $variant_doc:literal])+ $variant:ident = $word:literal ),+ $(,)? }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $( $(#[doc = $variant_doc])+ $variant ),+ }

        impl $name {
            /// Every word that is allowed, in the order of the variants.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// The word as it stands in a config.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(word: &str) -> Result<Self, String> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(format!("must be {}, not \"{word}\"", or_list(Self::WORDS))),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let word = String::deserialize(deserializer)?;
                word.parse().map_err(serde::de::Error::custom)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let words: &[&str] = &[$(concat!($($variant_doc),+)),+];
                let words: Vec<&str> = words.iter().map(|text| text.trim()).collect();
                schemars::json_schema!({
                    "description": concat!($($doc),+).trim(),
                    "type": "string",
                    "enum": Self::WORDS,
                    // Taplo shows these beside the words.
                    "x-taplo": { "docs": { "enumValues": words } }
                })
            }
        }
    };
}

choices! {
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

choices! {
    /// Where a run's first weights come from.
    Init {
        /// The folder's weights.
        Pretrained = "pretrained",
        /// Hugging Face's initialisation, seeded; the folder needs `config.json` and tokenizer only.
        Random = "random",
    }
}

choices! {
    /// The dtype of the weights and of the forward.
    DType {
        /// float32.
        Float32 = "float32",
        /// bfloat16, with float32 optimiser state and master weights.
        BFloat16 = "bfloat16",
    }
}

choices! {
    /// The kind of adapter.
    AdapterKind {
        /// LoRA, as PEFT writes it.
        Lora = "lora",
        /// A shared LoRA and one for each dimension, scaled by the prompt's λ.
        LambdaLora = "lambda_lora",
    }
}

choices! {
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

choices! {
    /// The schema of the record files.
    DataFormat {
        /// `instruction` and rated `completions`.
        UltraFeedback = "ultrafeedback",
        /// `prompt`, `chosen`, `rejected`.
        Pairs = "pairs",
        /// `messages`, or ShareGPT's `conversations`.
        Chat = "chat",
    }
}

choices! {
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

choices! {
    /// How the Gaussian schedule puts z ~ N(0, I) on the simplex.
    Normalization {
        /// softmax(z).
        Softmax = "softmax",
        /// |z| / Σ |z|.
        Abs = "abs",
    }
}

choices! {
    /// How often λ is drawn.
    Per {
        /// Once for each prompt of each epoch.
        Instance = "instance",
        /// Once for each optimiser step, as Appendix B.
        Step = "step",
    }
}

choices! {
    /// What s is.
    Reduction {
        /// The sum of a response's token log-probs.
        Sum = "sum",
        /// Their mean.
        Mean = "mean",
    }
}

choices! {
    /// How a batch is laid out in rows.
    Layout {
        /// A prompt once, followed by its responses.
        Packed = "packed",
        /// One padded row per response.
        Rows = "rows",
        /// One padded row per dimension and response, as the paper.
        Expanded = "expanded",
    }
}

choices! {
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

/// `"a"`, `"a" or "b"`, `"a", "b" or "c"`.
pub(crate) fn or_list(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    match quoted.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}
