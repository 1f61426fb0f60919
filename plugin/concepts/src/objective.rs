//! What each objective needs of a batch, and the range of its β.

use core::ops::RangeInclusive;

use crate::{Objective, Reduction};

impl Objective {
    /// Whether the loss depends on log-probs under a reference policy.
    pub const fn has_reference(self) -> bool {
        !matches!(self, Self::Simpo | Self::Orpo | Self::Sft)
    }

    /// Whether the loss compares the responses of a prompt.
    pub const fn has_preferences(self) -> bool {
        !matches!(self, Self::Sft)
    }

    /// Returns the reductions for which the objective is defined; the first is its default.
    ///
    /// IPO's publication has sums; means are TRL's and LLaMA-Factory's reading, with which β does not depend on lengths.
    pub const fn reductions(self) -> &'static [Reduction] {
        match self {
            Self::Simpo | Self::Orpo => &[Reduction::Mean],
            Self::Ipo => &[Reduction::Mean, Reduction::Sum],
            Self::Listwise | Self::PlackettLuce | Self::Sigmoid | Self::Hinge | Self::Sft => {
                &[Reduction::Sum, Reduction::Mean]
            }
        }
    }

    /// Returns the first of the [`reductions`](Self::reductions).
    pub const fn default_reduction(self) -> Reduction {
        self.reductions()[0]
    }

    /// Returns the values of β that publications and trainers use; None if the objective has no β.
    ///
    /// Sums: DPO has 0.1 to 0.5 (Rafailov et al. 2023), Zephyr 0.01 (Tunstall et al. 2023). Means are some hundred times
    /// smaller than sums, so their β is larger; SimPO has 2 to 10 (Meng et al. 2024). IPO's β is τ (0.01 to 1, Azar et al.
    /// 2023), ORPO's is λ (0.1 to 1, Hong et al. 2024).
    pub const fn beta_range(self, reduction: Reduction) -> Option<RangeInclusive<f64>> {
        match (self, reduction) {
            (Self::Sft, _) => None,
            (Self::Ipo, _) => Some(0.01..=1.0),
            (Self::Orpo, _) => Some(0.05..=1.0),
            (Self::Simpo, _) => Some(2.0..=10.0),
            (_, Reduction::Sum) => Some(0.01..=0.5),
            (_, Reduction::Mean) => Some(0.1..=10.0),
        }
    }
}
