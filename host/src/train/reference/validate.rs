//! Checks that an exported reference has the weights of the model it was exported from.

use crate::console::{Progress, say};
use crate::plugin::Dataset;
use crate::policy::LogitsPolicy;
use crate::policy::compare::{ComparisonInputs, compare, usual_tolerance};
use crate::train::TrainError;
use crate::train::setup::Setup;
use crate::train::trained_policy::TrainableModel;

/// Records to compare, spread evenly over the dataset.
const NUM_RECORDS: usize = 32;

/// Compares an exported reference with the model, and reports how closely they match.
pub(super) fn validate(
    setup: &Setup,
    dataset: &Dataset,
    model: &TrainableModel,
    reference: &impl LogitsPolicy,
) -> Result<(), TrainError> {
    let num_records = dataset.len().min(NUM_RECORDS);
    let samples: Vec<usize> = (0..num_records).map(|number| number * dataset.len() / num_records).collect();
    let tolerance = usual_tolerance(model.kind(), reference.kind());
    let mut progress = Progress::new("validating the reference", num_records as u64, 0);
    let inputs = ComparisonInputs {
        model: model.scorer(),
        policy: reference,
        plugin: &setup.plugin,
        dataset,
        samples: &samples,
        tolerance,
    };
    let comparison = compare(&inputs, &mut |done| progress.update(done as u64, num_records as u64, ""));
    progress.clear();
    let comparison = comparison?;
    let found = comparison.token_log_probs.max;
    if !comparison.passed {
        return Err(TrainError::Reference {
            path: reference.path().to_path_buf(),
            found,
            tolerance,
            record: comparison.worst.map_or(0, |worst| worst.record),
            model: setup.model_folder.clone(),
        });
    }
    say(&format!(
        "reference: the log-probs of {} match those of {} within {found:.1e} over {num_records} records",
        reference.path().display(),
        setup.model_folder.display()
    ));
    Ok(())
}
