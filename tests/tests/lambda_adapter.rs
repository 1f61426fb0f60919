//! The λ-adapter in the model: gradients, the corners of the simplex, merging, its file, and rejected inputs.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;

use lambda_dpo_core::{
    Batch, CollateOptions, Layout, LossInputs, LossOptions, Reduction, TokenizedSample, collate, loss_forward,
};
use lambda_dpo_host::libtorch::Libtorch;
use lambda_dpo_host::model::{ForwardOptions, LambdaParts, LoraConfig, Model, ModelInputs, TargetModules};
use lambda_dpo_tests::batches::{
    LAYOUTS, Rng, WANTS_HIDDEN, batch_of, collate_options, floats, loss, loss_inputs, loss_options, model_inputs,
    ragged_samples, relative, relative_error,
};
use lambda_dpo_tests::fixture;
use tch::{Kind, Tensor};

const DIMENSIONS: [&str; 3] = ["helpful", "honest", "brief"];

fn folder() -> PathBuf {
    fixture("golden/appendix_b/model")
}

fn parts(rank: i64) -> Option<LambdaParts> {
    Some(LambdaParts { dimensions: DIMENSIONS.map(str::to_owned).to_vec(), rank })
}

fn config(rank: i64, lambda: Option<LambdaParts>) -> LoraConfig {
    LoraConfig { rank, alpha: 3.0, dropout: 0.0, use_rslora: false, target_modules: TargetModules::AllLinear, lambda }
}

/// A model with an adapter in which every matrix is random.
fn model(config: &LoraConfig, kind: Kind) -> Model {
    let mut model = Model::load(&folder(), Libtorch::cpu(), kind).unwrap();
    model.add_lora(config, 5).unwrap();
    let mut rng = Rng(17);
    for (_, parameter) in model.trainable() {
        set(&parameter, &(rng.tensor(&parameter.size(), Kind::Double) * 0.1));
    }
    model
}

fn set(parameter: &Tensor, values: &Tensor) {
    tch::no_grad(|| parameter.detach().copy_(values));
}

fn with_hidden<'a>(batch: &'a Batch, hidden: &'a Tensor, model: &'a Model) -> LossInputs<'a> {
    LossInputs { hidden: Some(hidden), lm_head: Some(model.lm_head()), ..loss_inputs(batch) }
}

fn options() -> LossOptions {
    LossOptions { beta: 0.3, ..loss_options(Reduction::Sum, WANTS_HIDDEN) }
}

fn loss_of(model: &Model, batch: &Batch) -> f64 {
    let hidden = model.hidden(&model_inputs(batch)).unwrap();
    loss(&with_hidden(batch, &hidden, model), &options())
}

/// The loss and the gradient of every trainable parameter.
fn backward(model: &Model, batch: &Batch, checkpointing: bool) -> (f64, Vec<(String, Tensor)>) {
    for (_, parameter) in model.trainable() {
        let mut parameter = parameter;
        parameter.zero_grad();
    }
    let activations =
        model.forward(&model_inputs(batch), &ForwardOptions { checkpointing, dropout_seed: None }).unwrap();
    let inputs = with_hidden(batch, activations.hidden(), model);
    let (outputs, context) = loss_forward(&inputs, &options()).unwrap();
    let gradients = context.unwrap().backward(&inputs, 1.0).unwrap();
    activations.backward(&gradients.hidden.unwrap()).unwrap();
    let gradients = model.trainable().into_iter().map(|(name, parameter)| (name, parameter.grad().copy()));
    (outputs.loss.double_value(&[]), gradients.collect())
}

fn samples(seed: u64) -> Vec<TokenizedSample> {
    ragged_samples(&mut Rng(seed), 3, DIMENSIONS.len(), 0.0)
}

/// A batch in which each prompt has its own λ and all prompts share one row.
fn one_row(samples: &[TokenizedSample]) -> Batch {
    let lambda = [0.7, 0.2, 0.1, 0.0, 1.0, 0.0, 0.25, 0.25, 0.5];
    let options = CollateOptions { max_tokens: Some(512), ..collate_options(Layout::Packed) };
    let batch = collate(&samples.iter().collect::<Vec<_>>(), &lambda, &options).unwrap();
    assert_eq!(batch.input_ids.size()[0], 1);
    batch
}

#[test]
fn gradients_match_central_differences_where_prompts_of_one_row_differ_in_lambda() {
    const STEP: f64 = 1e-5;
    let batch = one_row(&samples(3));
    let model = model(&config(1, parts(2)), Kind::Double);
    let (_, gradients) = backward(&model, &batch, false);
    let (_, recomputed) = backward(&model, &batch, true);
    assert_eq!(gradients, recomputed, "checkpointing");
    assert_eq!(gradients.len(), 2 * 7 * 2);
    for ((name, gradient), (_, parameter)) in gradients.iter().zip(model.trainable()) {
        assert_eq!(parameter.kind(), Kind::Double);
        let scale = gradient.abs().max().double_value(&[]);
        let (num_rows, num_columns) = parameter.size2().unwrap();
        // Every part of the rank: a row of A, a column of B.
        let places = (0..7)
            .map(|part| if name.contains("lora_A") { part * num_columns + part } else { num_rows / 2 * 7 + part });
        for place in places {
            let entry = parameter.detach().view([-1]).get(place);
            let value = entry.double_value(&[]);
            let at = |moved: f64| {
                set(&entry, &Tensor::from(moved));
                loss_of(&model, &batch)
            };
            let numeric = (at(value + STEP) - at(value - STEP)) / (2.0 * STEP);
            set(&entry, &Tensor::from(value));
            let exact = gradient.view([-1]).double_value(&[place]);
            assert!((numeric - exact).abs() < 1e-6 * scale, "{name} at {place}: {exact} against {numeric} ({scale})");
        }
    }
}

#[test]
fn all_layouts_give_the_same_loss_and_gradients() {
    let samples = samples(8);
    let shared = one_row(&samples);
    let model = model(&config(2, parts(1)), Kind::Double);
    let lambda = floats(&shared.lambda);
    let (expected_loss, expected) = backward(&model, &shared, false);
    for layout in LAYOUTS {
        let batch = batch_of(&samples, &lambda, layout);
        let (loss, gradients) = backward(&model, &batch, false);
        assert!(relative(loss, expected_loss) < 1e-12, "{layout:?}: {loss} against {expected_loss}");
        for ((name, gradient), (_, expected)) in gradients.iter().zip(&expected) {
            assert!(relative_error(gradient, expected) < 1e-10, "{layout:?}: {name}");
        }
    }
}

#[test]
fn at_a_corner_it_is_that_dimensions_own_lora() {
    // In float64: the matrix products have different widths, so float32 rounds differently.
    let kind = Kind::Double;
    let samples = samples(5);
    let model_with_lambda = model(&config(0, parts(2)), kind);
    for (dimension, name) in (0..).zip(DIMENSIONS) {
        let mut lora = Model::load(&folder(), Libtorch::cpu(), kind).unwrap();
        lora.add_lora(&config(2, None), 5).unwrap();
        let own = |name: &str, tensor: &Tensor| tensor.narrow(i64::from(!name.contains("lora_A")), dimension * 2, 2);
        for ((name, from), (_, to)) in model_with_lambda.trainable().iter().zip(lora.trainable()) {
            set(&to, &own(name, from));
        }
        let mut one_hot = [0.0; 9];
        (0..3).for_each(|prompt| one_hot[prompt * 3 + dimension as usize] = 1.0);
        let batch = batch_of(&samples, &one_hot, Layout::Packed);
        let (loss, gradients) = backward(&model_with_lambda, &batch, false);
        let (expected_loss, expected) = backward(&lora, &batch, false);
        assert!(relative(loss, expected_loss) < 1e-12, "{name}: {loss} against {expected_loss}");
        for ((parameter, gradient), (_, expected)) in gradients.iter().zip(&expected) {
            let norm = |tensor: &Tensor| tensor.square().sum(Kind::Double).double_value(&[]).sqrt();
            let error = norm(&(own(parameter, gradient) - expected)) / norm(expected);
            assert!(error < 1e-12, "{name}: {parameter} is off by {error:e}");
            assert!(
                relative(norm(gradient), norm(expected)) < 1e-12,
                "{name}: another dimension's part has a gradient"
            );
        }
    }
}

#[test]
fn folded_merged_and_saved_it_is_the_same_at_that_lambda() {
    let lambda = [0.5, 0.2, 0.3];
    let batch = batch_of(&samples(6), &lambda.repeat(3), Layout::Packed);
    let hidden = |model: &Model| model.hidden(&model_inputs(&batch)).unwrap();
    // A fixed λ is rounded to float32 where it is folded into B, and so are the merged weights; the largest of some thousand
    // hidden states, each a sum of hundreds of such terms over two layers, has some 16 roundings: 1e-6. 1e-5 is ten times that.
    let mut live = model(&config(1, parts(2)), Kind::Float);
    let expected = hidden(&live);
    let target = tempfile::tempdir().unwrap();
    live.save_adapter(&target.path().join("lambda"), "base").unwrap();
    live.fix_lambda(&lambda).unwrap();
    assert!(relative_error(&hidden(&live), &expected) < 1e-5, "the fixed λ does not replace the batch's");
    live.set_adapter_enabled(false);
    let base = hidden(&live);
    assert!(relative_error(&base, &hidden(&Model::load(&folder(), Libtorch::cpu(), Kind::Float).unwrap())) == 0.0);
    assert!(relative_error(&base, &expected) > 1e-2, "the adapter has no effect");

    let load = |name: &str| {
        let mut model = Model::load(&folder(), Libtorch::cpu(), Kind::Float).unwrap();
        model.load_adapter(&target.path().join(name)).unwrap();
        model
    };
    let mut read = load("lambda");
    assert_eq!(read.adapter_dimensions().unwrap(), DIMENSIONS);
    assert_eq!(hidden(&read), expected, "the adapter read back differs");
    read.fix_lambda(&lambda).unwrap();
    read.fold_lambda().unwrap();
    assert!(read.adapter_dimensions().is_none());
    read.save_adapter(&target.path().join("plain"), "base").unwrap();
    assert!(relative_error(&hidden(&load("plain")), &expected) < 1e-5, "folded into a plain LoRA");

    let mut merged = load("lambda");
    let message = merged.merge_adapter().unwrap_err().to_string();
    assert!(
        message.starts_with("the adapter depends on λ over helpful, honest, brief, and none is given"),
        "{message}"
    );
    merged.fix_lambda(&lambda).unwrap();
    merged.merge_adapter().unwrap();
    assert!(!merged.has_adapter());
    assert!(relative_error(&hidden(&merged), &expected) < 1e-5, "merged");
}

#[test]
fn a_lambda_that_does_not_fit_is_refused() {
    let batch = batch_of(&samples(6), &[0.5, 0.2, 0.3].repeat(3), Layout::Packed);
    let mut with_lambda = model(&config(1, parts(2)), Kind::Float);
    let refused = |inputs: &ModelInputs, model: &Model| model.hidden(inputs).unwrap_err().to_string();
    let none = ModelInputs { lambda: None, ..model_inputs(&batch) };
    assert_eq!(
        refused(&none, &with_lambda),
        "the adapter depends on λ over helpful, honest, brief, and none is given: fix one, or give each prompt its own"
    );
    let two = batch.lambda.narrow(1, 0, 2);
    assert_eq!(
        refused(&ModelInputs { lambda: Some(&two), ..model_inputs(&batch) }, &with_lambda),
        "the batch's λ has shape [3, 2], but the adapter weighs 3 dimensions: helpful, honest, brief"
    );
    let one = batch.lambda.narrow(0, 0, 1);
    assert_eq!(
        refused(&ModelInputs { lambda: Some(&one), ..model_inputs(&batch) }, &with_lambda),
        "the batch has λ for 1 prompts, but its rows refer to prompt 2"
    );
    let mut message = |weights: &[f64]| with_lambda.fix_lambda(weights).unwrap_err().to_string();
    assert_eq!(message(&[1.0]), "λ has 1 weights, but the adapter has 3 dimensions: helpful, honest, brief");
    assert_eq!(message(&[1.0, -0.5, 0.5]), "λ gives `honest` the weight -0.5: weights must be finite and not negative");
    let plain = model(&config(2, None), Kind::Float).fix_lambda(&[1.0]).unwrap_err().to_string();
    assert_eq!(plain, "there is no λ to choose: that takes an adapter of kind \"lambda_lora\"");
    let mut model = Model::load(&folder(), Libtorch::cpu(), Kind::Float).unwrap();
    let message = model.add_lora(&config(0, None), 1).unwrap_err().to_string();
    assert_eq!(message, "An adapter's rank must be at least 1, found 0");
    let message = model.add_lora(&config(0, parts(0)), 1).unwrap_err().to_string();
    assert_eq!(message, "An adapter's rank per dimension must be at least 1, found 0");
}
