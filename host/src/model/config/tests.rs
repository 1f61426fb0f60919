//! Both spellings, each family's defaults, and errors.

#![expect(clippy::unwrap_used, reason = "tests")]

use serde_json::json;

use super::families::{QWEN2, QWEN3};
use super::*;

/// Parses the configuration of a small Llama with `changes` applied; the value "removed" removes a field.
fn parse(changes: Value) -> Result<ModelConfig, String> {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128, "hidden_size": 32,
        "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4
    });
    let map = config.as_object_mut().unwrap();
    for (key, value) in changes.as_object().unwrap() {
        if value == "removed" {
            map.remove(key)
        } else {
            map.insert(key.clone(), value.clone())
        };
    }
    ModelConfig::parse(Path::new("model/config.json"), map.clone(), Head::LanguageModel)
        .map_err(|error| error.to_string())
}

#[test]
fn both_spellings_of_rope_and_dtype_are_read() {
    let llama3 = |scaling: &mut Value| {
        for (key, value) in [("factor", 8.0), ("low_freq_factor", 1.0), ("high_freq_factor", 4.0)] {
            scaling[key] = value.into();
        }
        scaling["original_max_position_embeddings"] = 8192.into();
        scaling["rope_type"] = "llama3".into();
        scaling.clone()
    };
    let old = json!({"rope_theta": 500000.0, "rope_scaling": llama3(&mut json!({})), "torch_dtype": "bfloat16"});
    let new = json!({"rope_parameters": llama3(&mut json!({"rope_theta": 500000.0})), "dtype": "bfloat16"});
    for spelling in [old, new] {
        let config = parse(spelling).unwrap();
        assert_eq!((config.rope_theta, config.dtype), (500_000.0, Some(Kind::BFloat16)));
        assert_eq!(
            config.rope_scaling,
            RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: 8192.0
            }
        );
    }
    let linear = parse(json!({"rope_scaling": {"type": "linear", "factor": 2.0}})).unwrap();
    assert_eq!(linear.rope_scaling, RopeScaling::Linear { factor: 2.0 });
}

#[test]
fn sizes_that_no_model_has_are_refused() {
    for (name, value, problem) in [
        ("num_hidden_layers", json!(i64::MAX), "at most 65536, found 9223372036854775807"),
        ("num_hidden_layers", json!(1_u64 << 40), "at most 65536, found 1099511627776"),
        ("hidden_size", json!(1_u64 << 31), "at most 2147483647, found 2147483648"),
        ("vocab_size", json!(u64::MAX), "a positive integer, found 18446744073709551615"),
        ("intermediate_size", json!(0), "a positive integer, found 0"),
    ] {
        let error = parse(json!({name: value})).unwrap_err();
        assert!(error.contains(&format!("`{name}` must be {problem}")), "{error}");
    }
}

#[test]
fn defaults_are_those_of_the_family() {
    let config = parse(json!({"rope_scaling": null, "eos_token_id": [5, 6], "pad_token_id": -1})).unwrap();
    assert_eq!((config.num_key_value_heads, config.head_dim, config.rope_theta), (4, 8, 10_000.0));
    assert_eq!((config.eos_token_id, config.pad_token_id), (vec![5, 6], None));
    assert!(!config.qkv_bias && !config.o_proj_bias && !config.tie_word_embeddings && config.sliding_window.is_none());

    let mistral = parse(json!({"architectures": ["MistralForCausalLM"], "num_attention_heads": 8})).unwrap();
    assert_eq!((mistral.num_key_value_heads, mistral.sliding_window), (8, Some(4096)));
    assert_eq!(mistral.sliding_layers, [true; 3]);
    let mistral =
        parse(json!({"architectures": ["MistralForCausalLM"], "num_key_value_heads": 2, "sliding_window": null}));
    assert_eq!(mistral.unwrap().sliding_window, None);

    let qwen2 = json!({"architectures": "removed", "model_type": "qwen2", "num_key_value_heads": 2});
    let qwen2 = parse(qwen2).unwrap();
    assert_eq!((qwen2.architecture, qwen2.qkv_bias, qwen2.o_proj_bias), (&QWEN2, true, false));
    assert_eq!(qwen2.sliding_window, None);
    let qwen3 = json!({"architectures": ["Qwen3ForCausalLM"], "num_key_value_heads": 2, "use_sliding_window": true,
                       "sliding_window": 16, "max_window_layers": 1});
    let qwen3 = parse(qwen3).unwrap();
    assert_eq!((qwen3.architecture, qwen3.architecture.qk_norm), (&QWEN3, true));
    assert_eq!((qwen3.head_dim, qwen3.qkv_bias, qwen3.o_proj_bias), (128, false, false));
    assert_eq!((qwen3.sliding_window, qwen3.sliding_layers), (Some(16), vec![false, true, true]));
}

#[test]
fn unsupported_features_are_named() {
    let cases = [
        (
            json!({"architectures": ["GPTNeoXForCausalLM"]}),
            "architecture GPTNeoXForCausalLM is not supported; supported are LlamaForCausalLM, MistralForCausalLM, \
             Qwen2ForCausalLM, Qwen3ForCausalLM",
        ),
        (
            json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
            "rotary scaling \"yarn\" is not supported; supported are \"default\", \"linear\" and \"llama3\"",
        ),
        (json!({"hidden_act": "gelu"}), "`hidden_act` = \"gelu\" is not supported; supported is \"silu\""),
        (
            json!({"quantization_config": {"quant_method": "gptq"}}),
            "quantisation (`quantization_config`, method gptq) is not supported; give a model with float32, bfloat16 or \
             float16 weights, or in nf4 of bitsandbytes",
        ),
        (
            json!({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": true, "load_in_4bit": false}}),
            "the 8-bit quantisation of bitsandbytes (`quantization_config`, LLM.int8) is not supported; give the model with \
             float32, bfloat16 or float16 weights (`dequantize` of Transformers makes them), which can be quantised to nf4 \
             (model.quantize or --quantize)",
        ),
        (
            json!({"quantization_config": {
                "quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "fp4"
            }}),
            "the 4-bit quantisation fp4 of bitsandbytes (`quantization_config`) is not supported; give the weights that it was \
             made from, which can be quantised to nf4 (model.quantize or --quantize)",
        ),
        (json!({"hidden_size": "removed"}), "it has no `hidden_size` (a positive integer)"),
        (json!({"hidden_size": "32"}), "`hidden_size` must be a positive integer, found \"32\""),
        (json!({"num_key_value_heads": 3}), "`num_key_value_heads` = 3 does not divide `num_attention_heads` = 4"),
        (
            json!({"architectures": "removed", "model_type": "removed"}),
            "it has neither `architectures` nor `model_type`",
        ),
    ];
    for (changes, message) in cases {
        assert_eq!(parse(changes).unwrap_err(), format!("model/config.json: {message}"));
    }
}
