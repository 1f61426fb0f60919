//! Attention masks: which keys each query sees, in the cheapest form that is exact.

use tch::{Device, Kind, Tensor};

use crate::libtorch::upload;
use crate::model::ModelError;
use crate::model::config::ModelConfig;
use crate::model::inputs::{Layout, ModelInputs};

use super::additive_mask::additive;
use super::segments::{self, Segments};

/// Which keys a query sees.
pub(in crate::model) enum Mask {
    /// Itself and the keys before it in its row.
    Causal,
    /// [R, 1, T, T] in the model's dtype: 0 for keys that it sees, −∞ for others.
    Additive(Tensor),
    /// In packed rows, its own response and prompt; computed response by response.
    Segments(Segments),
}

/// The masks of one forward pass, shared by all layers.
pub(in crate::model) struct Masks {
    full: Mask,
    sliding: Mask,
    sliding_layers: Vec<bool>,
}

impl Masks {
    /// Chooses the cheapest exact masks for a batch of rows.
    pub(in crate::model) fn for_rows(
        config: &ModelConfig,
        inputs: &ModelInputs,
        layout: &Layout,
        device: Device,
        kind: Kind,
    ) -> Result<Masks, ModelError> {
        let slides = config.sliding_layers.contains(&true);
        let window = config.sliding_window.filter(|&window| slides && window < layout.num_positions);
        let num_tokens = inputs.input_ids.size2()?.1;
        let (full, sliding) = match &layout.packed_rows {
            _ if layout.one_sequence_per_row && window.is_none() => (Mask::Causal, Mask::Causal),
            Some(rows) if segments::pays(rows, num_tokens, device) => {
                let by_segments =
                    |window| Ok::<_, ModelError>(Mask::Segments(Segments::new(rows, window, (kind, device))?));
                (by_segments(None)?, if window.is_some() { by_segments(window)? } else { Mask::Causal })
            }
            _ => Self::over_whole_rows(config, inputs, layout, window, (kind, device))?,
        };
        // If no sequence is longer than the window, sliding layers are full ones.
        let sliding_layers = config.sliding_layers.iter().map(|&layer| layer && window.is_some()).collect();
        Ok(Masks { full, sliding, sliding_layers })
    }

    /// Masks over whole rows, for full and for sliding attention.
    ///
    /// A token sees itself and the tokens before it in its row that have the same prompt id and either the same
    /// sequence id or −1; in layers with sliding attention, only those whose position is less than a window before its
    /// own. The positions of each packed response continue those of its prompt, so the difference of positions is the
    /// distance in every layout.
    fn over_whole_rows(
        config: &ModelConfig,
        inputs: &ModelInputs,
        layout: &Layout,
        window: Option<i64>,
        (kind, device): (Kind, Device),
    ) -> Result<(Mask, Mask), ModelError> {
        let visible = visible(inputs, device)?;
        let sliding = match window {
            Some(window) => {
                let near = distances(inputs.position_ids, device)?.f_lt(window)?;
                Mask::Additive(additive(&visible.f_logical_and(&near)?, kind)?)
            }
            None => Mask::Causal,
        };
        let all_slide = window.is_some() && !config.sliding_layers.contains(&false);
        let full = if layout.one_sequence_per_row || all_slide {
            Mask::Causal
        } else {
            Mask::Additive(additive(&visible, kind)?)
        };
        Ok((full, sliding))
    }

    /// Masks for a pass over a cache, which has its own.
    pub(in crate::model) fn none() -> Masks {
        Masks { full: Mask::Causal, sliding: Mask::Causal, sliding_layers: Vec::new() }
    }

    pub(in crate::model) fn for_layer(&self, layer: usize) -> &Mask {
        if self.sliding_layers.get(layer) == Some(&true) { &self.sliding } else { &self.full }
    }
}

/// Returns [R, T, T] bool: whether a query sees a key, regardless of windows.
pub(in crate::model) fn visible(inputs: &ModelInputs, device: Device) -> Result<Tensor, ModelError> {
    let prompts = upload(inputs.prompt_ids, device)?;
    let sequences = upload(inputs.sequence_ids, device)?;
    let same_prompt = prompts.f_unsqueeze(2)?.f_eq_tensor(&prompts.f_unsqueeze(1)?)?;
    let same_sequence = sequences.f_unsqueeze(2)?.f_eq_tensor(&sequences.f_unsqueeze(1)?)?;
    let is_prompt = sequences.f_eq(-1)?.f_unsqueeze(1)?; // [R, 1, T]
    // Padding sees padding, so that each token sees itself and no row of the softmax is empty (NaN).
    Ok(same_sequence.f_logical_or(&is_prompt)?.f_logical_and(&same_prompt)?.f_tril(0)?)
}

/// Returns [R, T, T]: the query's position minus the key's.
pub(in crate::model) fn distances(position_ids: &Tensor, device: Device) -> Result<Tensor, ModelError> {
    let positions = upload(position_ids, device)?;
    Ok(positions.f_unsqueeze(2)?.f_sub(&positions.f_unsqueeze(1)?)?)
}
