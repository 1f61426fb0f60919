//! The parts of the decoder, from the norm up to a whole decoder layer.

pub(super) mod norm;
pub(super) mod rope;
pub(super) mod packed_row;
pub(super) mod additive_mask;
pub(super) mod segments;
pub(super) mod mask;
pub(super) mod weight;
mod adapted_linear;
pub(super) mod linear;
pub(super) mod attention;
pub(super) mod decoder_layer;
