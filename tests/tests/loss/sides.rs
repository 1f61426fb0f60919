//! The two ways to compute a loss: the core directly, and through the table.

use lambda_dpo_core::{LossInputs, LossOptions, loss_forward};
use lambda_dpo_host::plugin::Plugin;
use tch::Tensor;

use lambda_dpo_tests::batches::{exported, exported_options, floats};
use lambda_dpo_tests::plugin_library;

/// Where a loss is computed.
#[derive(Clone)]
pub(super) enum Side {
    Core,
    Table(Plugin),
}

impl Side {
    pub(super) fn both() -> [(&'static str, Self); 2] {
        [("core", Self::Core), ("C ABI", Self::Table(Plugin::load(Some(&plugin_library())).unwrap()))]
    }

    /// The loss with the gradients that are wanted.
    pub(super) fn run(&self, inputs: &LossInputs, options: &LossOptions) -> Found {
        // The types of both sides have the same names, and nothing else in common.
        macro_rules! found {
            ($forward:expr, $inputs:expr) => {{
                let (outputs, context) = $forward.unwrap();
                let gradients = context.unwrap().backward($inputs, 1.0).unwrap();
                Found {
                    loss: outputs.loss.double_value(&[]),
                    hidden: gradients.hidden,
                    lm_head: gradients.lm_head,
                    sequence_log_probs: gradients.sequence_log_probs,
                    sft_losses: outputs.preferences.unwrap().sft_losses.map(|losses| floats(&losses)),
                }
            }};
        }
        match self {
            Self::Core => found!(loss_forward(inputs, options), inputs),
            Self::Table(plugin) => {
                let inputs = exported(inputs);
                found!(plugin.loss_forward(&inputs, &exported_options(options)), &inputs)
            }
        }
    }
}

/// A loss with its gradients.
pub(super) struct Found {
    pub(super) loss: f64,
    pub(super) hidden: Option<Tensor>,
    pub(super) lm_head: Option<Tensor>,
    pub(super) sequence_log_probs: Option<Tensor>,
    pub(super) sft_losses: Option<Vec<f64>>,
}
