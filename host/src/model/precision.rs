//! How precisely a model's weights are held in memory.

use tch::Kind;

/// The dtype of a model's weights and forward pass, and whether the weights of its linear layers are in 4 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Precision {
    /// The dtype.
    pub kind: Kind,
    /// Weights of the decoder's linear layers are quantised to NF4 as they are loaded. Those that are stored so always stay
    /// in 4 bits.
    pub nf4: bool,
}

impl From<Kind> for Precision {
    fn from(kind: Kind) -> Self {
        Self { kind, nf4: false }
    }
}
