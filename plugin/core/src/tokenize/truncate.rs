//! The cutoff.

use super::samples::TokenizedResponse;

/// Returns the maximum numbers of prompt tokens and of response tokens to keep if prompt and longest response together
/// exceed the cutoff: LLaMA-Factory's split (its `infer_seqlen`).
///
/// The shorter side is kept whole if it takes less than half of the cutoff; otherwise both are cut in proportion.
pub(super) fn split(prompt_tokens: usize, response_tokens: usize, cutoff_len: usize) -> (usize, usize) {
    let bound = if response_tokens * 2 < cutoff_len {
        cutoff_len
    } else if prompt_tokens * 2 < cutoff_len {
        cutoff_len - prompt_tokens
    } else {
        cutoff_len * response_tokens / (prompt_tokens + response_tokens).max(1)
    };
    let response = bound.min(response_tokens);
    (prompt_tokens.min(cutoff_len.saturating_sub(response)), response)
}

/// Keeps the end of the prompt, where the assistant's header is, and the start of each response. Returns whether anything
/// was cut.
pub(super) fn truncate(prompt: &mut Vec<i64>, responses: &mut [TokenizedResponse], cutoff_len: usize) -> bool {
    let longest = responses.iter().map(|response| response.ids.len()).max().unwrap_or(0);
    if prompt.len() + longest <= cutoff_len {
        return false;
    }
    let (prompt_tokens, response_tokens) = split(prompt.len(), longest, cutoff_len);
    prompt.drain(..prompt.len() - prompt_tokens);
    for response in responses {
        response.ids.truncate(response_tokens);
    }
    true
}
