//! Configs: any text as a run's TOML, as a model's `config.json`, and as an adapter's `adapter_config.json`, and the plan of
//! memory that follows from them. The input is these three texts, separated by NUL.
#![no_main]

use std::cell::RefCell;

use lambda_dpo_fuzz::tiny::{self, Folder};
use lambda_dpo_host::config;
use lambda_dpo_host::model::Model;
use lambda_dpo_host::train::plan::{Card, Lengths, RunPlan};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static GIVEN: (Folder, RefCell<Model>) = (Folder::new(), RefCell::new(tiny::model()));
}

fuzz_target!(|input: &str| {
    let mut texts = input.splitn(3, '\0').chain(std::iter::repeat(""));
    let mut next = || texts.next().unwrap_or_default();
    let (run, model_config, adapter_config) = (next(), next(), next());
    GIVEN.with(|(folder, model)| {
        folder.write("run.toml", run);
        if !model_config.is_empty() {
            folder.write("config.json", model_config);
        }
        if let Ok(mut config) = config::load(&folder.path("run.toml"), std::iter::empty(), &[]) {
            // The model that the input describes, wherever it says that it lies.
            config.model.path = folder.path("");
            config.model.torchscript = None;
            let lengths = Lengths { prompt: 100, num_responses: 4, response: 200, num_records: 1000 };
            let _ = RunPlan::of_lengths(&config, lengths, Card::new(24.0));
        }
        if !adapter_config.is_empty() {
            folder.write("adapter/adapter_config.json", adapter_config);
            let mut model = model.borrow_mut();
            if model.load_adapter(&folder.path("adapter")).is_ok() {
                model.remove_adapter();
            }
        }
    });
});
