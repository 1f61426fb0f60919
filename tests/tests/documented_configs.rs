//! Every run config in the documentation and the fixtures is one that the program accepts.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use lambda_dpo_host::config::{self, AdapterSection, RunConfig, Stage};
use lambda_dpo_tests::{fixture, root};

fn load(path: &Path) -> RunConfig {
    config::load(path, std::iter::empty(), &[]).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_demo_trains_on_the_model_of_its_first_stage() {
    let sft = load(&fixture("demo/sft.toml"));
    let lambda_dpo = load(&fixture("demo/lambda_dpo.toml"));
    assert_eq!((sft.stage, lambda_dpo.stage), (Stage::Sft, Stage::LambdaDpo));
    assert_eq!(lambda_dpo.model.path, sft.output_dir.join("model"));
}

#[test]
fn the_comparisons_are_fair() {
    comparison_is_fair(&fixture("demo/steer"));
    comparison_is_fair(&fixture("stories/steer"));
}

/// The λ-adapter trains for as many steps as the specialists together; the unconditioned run has as many steps and the
/// same total rank.
fn comparison_is_fair(folder: &Path) {
    let of = |name: &str| load(&folder.join(name).with_extension("toml"));
    let (lambda, specialist, unconditioned) = (of("lambda_adapter"), of("specialist"), of("unconditioned"));
    let num_dimensions = lambda.data.dimensions.as_ref().unwrap().len() as u64;
    assert_eq!(lambda.train.num_train_epochs, specialist.train.num_train_epochs * num_dimensions as f64);
    assert_eq!(lambda.train, unconditioned.train);
    assert_eq!(
        (&lambda.data, &lambda.lambda, &lambda.loss),
        (&unconditioned.data, &unconditioned.lambda, &unconditioned.loss)
    );
    assert_eq!((&lambda.data, &lambda.loss, &lambda.model), (&specialist.data, &specialist.loss, &specialist.model));
    let [lambda, specialist, unconditioned] = [lambda, specialist, unconditioned].map(|config| config.adapter.unwrap());
    assert_eq!(lambda.rank_of_a_dimension(), specialist.rank);
    assert_eq!(lambda.rank + num_dimensions * lambda.rank_of_a_dimension(), unconditioned.rank);
    let scaling = |adapter: &AdapterSection, rank: u64| adapter.lora_alpha() / rank as f64;
    assert_eq!(scaling(&lambda, lambda.rank_of_a_dimension()), scaling(&specialist, specialist.rank));
    assert_eq!(scaling(&unconditioned, unconditioned.rank), scaling(&specialist, specialist.rank));
}

#[test]
fn examples_are_valid() {
    for entry in std::fs::read_dir(root().join("docs/examples")).unwrap() {
        load(&entry.unwrap().path());
    }
    load(&root().join("docs/tutorial/lambda.toml"));
}

#[test]
fn the_readme_shows_a_valid_config_and_names_every_key() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let (_, rest) = readme.split_once("```toml\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("readme.toml");
    std::fs::write(&file, example).unwrap();
    let config = load(&file);

    // The example has an adapter, so every section is present.
    let (_, keys) = readme.split_once("## Config keys").unwrap();
    let serde_json::Value::Object(sections) = serde_json::to_value(&config).unwrap() else { panic!("not a table") };
    for (section, value) in sections {
        let serde_json::Value::Object(entries) = value else { continue };
        for key in entries.keys().filter(|key| *key != "kind") {
            let named = [format!("`{section}.{key}`"), format!("`{key}`")].iter().any(|name| keys.contains(name));
            assert!(named, "README.md does not name {section}.{key}");
        }
    }
}
