//! Weights in several files, written and read back.

#![expect(clippy::unwrap_used, reason = "tests")]

use crate::libtorch::Libtorch;
use tch::Kind;

use super::*;

#[test]
fn a_model_in_several_files_is_read_back() {
    let source = tempfile::tempdir().unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": 32, "hidden_size": 8, "intermediate_size": 12,
        "num_hidden_layers": 2, "num_attention_heads": 2
    });
    fs::write(source.path().join("config.json"), config.to_string()).unwrap();
    let model = Model::random(source.path(), Libtorch::cpu(), Kind::Float, 3).unwrap();

    let sharded = tempfile::tempdir().unwrap();
    fs::write(sharded.path().join("config.json"), config.to_string()).unwrap();
    model.write_weights(sharded.path(), 1500).unwrap();
    let index = fs::read_to_string(sharded.path().join("model.safetensors.index.json")).unwrap();
    let index: Value = serde_json::from_str(&index).unwrap();
    assert_eq!(index["weight_map"]["model.embed_tokens.weight"], "model-00001-of-00006.safetensors");
    let total: usize = model.parameters.dense.values().map(safetensors::num_bytes).sum();
    assert_eq!(index["metadata"]["total_size"], total);

    let read = Model::load(sharded.path(), Libtorch::cpu(), Kind::Float).unwrap();
    assert_eq!(read.parameters.dense.len(), model.parameters.dense.len());
    for (name, tensor) in &model.parameters.dense {
        assert_eq!(&read.parameters.dense[name], tensor, "{name}");
    }

    fs::remove_file(sharded.path().join("model-00002-of-00006.safetensors")).unwrap();
    let message = Model::load(sharded.path(), Libtorch::cpu(), Kind::Float).err().unwrap().to_string();
    assert!(message.contains("model-00002-of-00006.safetensors: No such file"), "{message}");
}
