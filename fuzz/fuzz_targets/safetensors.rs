//! Weights: any bytes as a model's safetensors file, as its index of shards, as those of an adapter, and as a file of
//! whatever tensors. The first byte chooses.
#![no_main]
#![expect(clippy::expect_used, reason = "a target cannot go on without its files")]

use std::cell::RefCell;

use lambda_dpo_fuzz::tiny::{self, Folder};
use lambda_dpo_host::files::safetensors;
use lambda_dpo_host::libtorch::Libtorch;
use lambda_dpo_host::model::Model;
use libfuzzer_sys::fuzz_target;
use tch::Kind;

struct Given {
    folder: Folder,
    model: RefCell<Model>,
}

thread_local! {
    static GIVEN: Given = {
        let folder = Folder::new();
        std::fs::rename(folder.path("whole/model.safetensors"), folder.path("shard.safetensors")).expect("a temporary file");
        Given { folder, model: RefCell::new(tiny::model()) }
    };
}

fn load(folder: &Folder) -> bool {
    Model::load(&folder.path(""), Libtorch::cpu(), Kind::Float).is_ok()
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, data)) = data.split_first() else { return };
    GIVEN.with(|Given { folder, model }| match choice % 4 {
        0 => {
            folder.write("model.safetensors", data);
            let loaded = load(folder);
            std::fs::remove_file(folder.path("model.safetensors")).expect("a temporary file");
            // A model is loaded only if all its weights are there.
            assert!(!loaded || data.len() > 1000);
        }
        1 => {
            folder.write("model.safetensors.index.json", data);
            load(folder);
            std::fs::remove_file(folder.path("model.safetensors.index.json")).expect("a temporary file");
        }
        2 => {
            folder.write("adapter/adapter_model.safetensors", data);
            let mut model = model.borrow_mut();
            if model.load_adapter(&folder.path("adapter")).is_ok() {
                model.remove_adapter();
            }
        }
        _ => {
            folder.write("tensors.safetensors", data);
            if let Ok(tensors) = safetensors::read(&folder.path("tensors.safetensors")) {
                let num_bytes: usize = tensors.values().map(safetensors::num_bytes).sum();
                assert!(num_bytes < data.len(), "more was read than there is");
            }
        }
    });
});
