//! Losses that a caller may ask for: a description of any value, and the inputs and options that it stands for.
//!
//! As in [`crate::arguments`], the order and types of the fields say what the bytes of the corpus mean.

use std::ptr::{null_mut, without_provenance_mut};

use arbitrary::Arbitrary;
use lambda_dpo_abi as abi;
use lambda_dpo_tests::table::sized;

use crate::handles::Choice;
use crate::lent::{Description, Lent};

/// A loss of any tensors, with any options.
#[derive(Arbitrary, Debug)]
pub struct Loss {
    tensors: [Option<Description>; 14],
    num_sequences: u64,
    objective: Choice,
    reduction: Choice,
    beta: f64,
    label_smoothing: f64,
    simpo_gamma: f64,
    sft_weight: f64,
    normalizer: f64,
    logits_budget_bytes: u64,
    paper_exact: Choice,
    wants: Choice,
    cuda_stream: Choice,
}

/// Inputs of a loss, with the tensors they borrow.
pub struct Inputs {
    _lent: Vec<Option<Box<Lent>>>,
    raw: abi::LossInputs,
}

impl Inputs {
    /// The inputs, for a call while this is alive.
    #[must_use]
    pub fn raw(&self) -> &abi::LossInputs {
        &self.raw
    }
}

impl Loss {
    /// Makes the inputs.
    #[must_use]
    pub fn inputs(&self) -> Inputs {
        let mut lent: Vec<Option<Box<Lent>>> = self.tensors.iter().map(|t| t.as_ref().map(Lent::new)).collect();
        let mut raw = lent.iter_mut().map(|lent| lent.as_mut().map_or(null_mut(), |lent| lent.raw()));
        let mut next = || raw.next().unwrap_or(null_mut());
        let raw = abi::LossInputs {
            struct_size: size_of::<abi::LossInputs>(),
            hidden: next(),
            lm_head: next(),
            logits: next(),
            sequence_log_probs: next(),
            target_positions: next(),
            target_ids: next(),
            target_sequences: next(),
            num_sequences: if self.num_sequences < u64::MAX / 2 { self.num_sequences % 8 } else { self.num_sequences },
            prompt_offsets: next(),
            sequence_index: next(),
            pi_target: next(),
            target_mask: next(),
            lambda: next(),
            sequence_num_tokens: next(),
            ranks: next(),
            reference_log_probs: null_mut(),
            // Most are on the CPU, where there is no stream.
            cuda_stream: without_provenance_mut(usize::from(self.cuda_stream).saturating_sub(250)),
        };
        Inputs { _lent: lent, raw }
    }

    /// Makes the options.
    #[must_use]
    pub fn options(&self) -> abi::LossOptions {
        abi::LossOptions {
            objective: u32::from(self.objective % 9),
            reduction: u32::from(self.reduction % 3),
            beta: self.beta,
            label_smoothing: self.label_smoothing,
            simpo_gamma: self.simpo_gamma,
            sft_weight: self.sft_weight,
            normalizer: self.normalizer,
            logits_budget_bytes: self.logits_budget_bytes,
            paper_exact: u32::from(self.paper_exact % 3),
            wants: u32::from(self.wants % 32),
            // SAFETY: a struct of the ABI.
            ..unsafe { sized() }
        }
    }

    /// Whether the backward follows the forward, twice.
    #[must_use]
    pub fn has_backwards(&self) -> bool {
        self.wants & 32 != 0
    }

    /// Whether the loss of a batch has a reference.
    #[must_use]
    pub fn has_reference(&self) -> bool {
        self.cuda_stream.is_multiple_of(2)
    }
}
