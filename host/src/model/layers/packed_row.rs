//! Layout of prompts and responses in a packed row.

/// Lengths of the prompts, responses and padding of a packed row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::model) struct PackedRow {
    pub(super) prompts: Vec<PackedPrompt>,
    pub(super) padding: i64,
}

/// Lengths of a prompt and of the responses after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PackedPrompt {
    pub(super) length: i64,
    pub(super) responses: Vec<i64>,
}

impl PackedRow {
    /// Reads the layout from a row's ids. Returns None unless the row is prompts, each followed by its responses, with
    /// padding at the end, and the positions of each response continue those of its prompt.
    pub(in crate::model) fn read(prompt_ids: &[i64], sequence_ids: &[i64], position_ids: &[i64]) -> Option<PackedRow> {
        let mut row = PackedRow::default();
        let mut seen = Vec::new();
        let mut at = 0;
        while at < prompt_ids.len() {
            let part = (prompt_ids[at], sequence_ids[at]);
            let length = (at..prompt_ids.len()).take_while(|&i| (prompt_ids[i], sequence_ids[i]) == part).count();
            let positions = &position_ids[at..at + length];
            at += length;
            if part.0 == -1 {
                row.padding = length as i64;
                return (at == prompt_ids.len()).then_some(row);
            }
            let is_new_prompt = seen.last().is_none_or(|&(prompt, _)| prompt != part.0);
            let is_repeated =
                seen.iter().any(|&(prompt, sequence)| prompt == part.0 && (is_new_prompt || sequence == part.1));
            if is_repeated || (part.1 == -1 && !is_new_prompt) {
                return None;
            }
            seen.push(part);
            if is_new_prompt {
                let length = if part.1 == -1 { length as i64 } else { 0 };
                row.prompts.push(PackedPrompt { length, responses: Vec::new() });
            }
            let prompt = row.prompts.last_mut()?;
            let start = if part.1 == -1 { 0 } else { prompt.length };
            if positions.iter().zip(start..).any(|(&found, expected)| found != expected) {
                return None;
            }
            if part.1 != -1 {
                prompt.responses.push(length as i64);
            }
        }
        Some(row)
    }

    /// A prompt and its responses, without padding.
    pub(in crate::model) fn of_prompt(length: i64, responses: &[i64]) -> PackedRow {
        PackedRow { prompts: vec![PackedPrompt { length, responses: responses.to_vec() }], padding: 0 }
    }

    /// Whether it is one sequence, which may be followed by padding.
    pub(in crate::model) fn is_one_sequence(&self) -> bool {
        self.prompts.len() <= 1 && self.prompts.iter().all(|prompt| prompt.branches().is_empty())
    }

    /// Number of (query, key) pairs that are computed by segments.
    pub(in crate::model) fn num_pairs(&self) -> i64 {
        self.prompts.iter().map(PackedPrompt::num_pairs).sum()
    }

    /// Tokens of the trunks, and of the branches with their prompts.
    pub(in crate::model) fn segment_lengths(&self) -> [i64; 2] {
        let trunks = self.prompts.iter().map(PackedPrompt::trunk).sum();
        let with_prompt =
            |prompt: &PackedPrompt| prompt.branches().iter().map(|branch| prompt.length + branch).sum::<i64>();
        [trunks, self.prompts.iter().map(with_prompt).sum()]
    }

    /// Returns the lengths of all parts, in order.
    pub(super) fn lengths(&self) -> impl Iterator<Item = i64> {
        let prompts = self
            .prompts
            .iter()
            .flat_map(|prompt| std::iter::once(prompt.length).chain(prompt.responses.iter().copied()));
        prompts.chain((self.padding > 0).then_some(self.padding))
    }
}

impl PackedPrompt {
    /// Number of tokens of the prompt and its first response.
    pub(super) fn trunk(&self) -> i64 {
        self.length + self.responses.first().unwrap_or(&0)
    }

    /// Lengths of the responses that are not part of the trunk.
    pub(super) fn branches(&self) -> &[i64] {
        self.responses.get(1..).unwrap_or_default()
    }

    /// Number of (query, key) pairs that are computed, masked ones included.
    pub(super) fn num_pairs(&self) -> i64 {
        let trunk = self.trunk() * (self.trunk() + 1) / 2;
        trunk + self.branches().iter().map(|length| length * (self.length + length)).sum::<i64>()
    }
}
