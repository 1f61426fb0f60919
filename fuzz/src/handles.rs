//! Handles as a careless caller keeps them: live ones, freed ones, and the wrong ones.

use std::ptr::{null_mut, without_provenance_mut};

use lambda_dpo_abi as abi;

/// Chooses a handle, or one of a few values.
pub type Choice = u8;

/// The types of handles.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// `LambdaDpoReader`.
    Reader,
    /// `LambdaDpoTokenizer`.
    Tokenizer,
    /// `LambdaDpoDecodeStream`.
    DecodeStream,
    /// `LambdaDpoTokenizedSample`.
    Sample,
    /// `LambdaDpoDataset`.
    Dataset,
    /// `LambdaDpoSchedule`.
    Schedule,
    /// `LambdaDpoLossContext`.
    Context,
}

impl Kind {
    /// All types, in the order of their numbers.
    pub const ALL: [Self; 7] =
        [Self::Reader, Self::Tokenizer, Self::DecodeStream, Self::Sample, Self::Dataset, Self::Schedule, Self::Context];
}

/// A handle for a call, and whether the call may accept it.
#[derive(Clone, Copy, Debug)]
pub struct Picked {
    /// The handle; NULL, freed, of another type or made up, unless it is live.
    pub raw: *mut u8,
    /// It is alive and of the type that was asked for.
    pub is_live: bool,
}

/// The handles of one sequence of calls. Those that are left are freed with it.
pub struct Handles<'a> {
    api: &'a abi::Api,
    live: [Vec<*mut u8>; Kind::ALL.len()],
    freed: Vec<*mut u8>,
}

impl<'a> Handles<'a> {
    /// No handles yet.
    #[must_use]
    pub fn new(api: &'a abi::Api) -> Self {
        Self { api, live: Default::default(), freed: Vec::new() }
    }

    /// Keeps a handle that a call returned; NULL is none.
    pub fn keep<T>(&mut self, kind: Kind, raw: *mut T) {
        if !raw.is_null() {
            self.live[kind as usize].push(raw.cast());
        }
    }

    /// Chooses a handle for an argument of type `kind`: mostly a live one.
    #[must_use]
    pub fn pick(&self, kind: Kind, choice: Choice) -> Picked {
        let nth = |list: &[*mut u8]| list.get(usize::from(choice) % list.len().max(1)).copied();
        let num_kinds = Kind::ALL.len();
        let other = (kind as usize + 1 + usize::from(choice) % (num_kinds - 1)) % num_kinds;
        let found = match choice {
            0..200 => return nth(&self.live[kind as usize]).map_or(NONE, |raw| Picked { raw, is_live: true }),
            200..220 => nth(&self.live[other]),
            220..240 => nth(&self.freed),
            // Handles are odd, and count from 1.
            240..253 => Some(without_provenance_mut(usize::from(choice % 3))),
            253 => Some(without_provenance_mut(usize::MAX)),
            _ => None,
        };
        found.map_or(NONE, |raw| Picked { raw, is_live: self.live[kind as usize].contains(&raw) })
    }

    /// Frees a handle as one of type `kind`, which does nothing unless it is one.
    pub fn free(&mut self, kind: Kind, picked: Picked) {
        self.call_free(kind, picked.raw);
        if picked.is_live {
            self.live[kind as usize].retain(|raw| *raw != picked.raw);
            self.freed.push(picked.raw);
        }
    }

    /// Number of live handles.
    #[must_use]
    pub fn num_live(&self) -> usize {
        self.live.iter().map(Vec::len).sum()
    }

    fn call_free(&self, kind: Kind, raw: *mut u8) {
        let api = self.api;
        // SAFETY: each of these takes any number: handles are no addresses.
        unsafe {
            match kind {
                Kind::Reader => (api.reader_free)(raw.cast()),
                Kind::Tokenizer => (api.tokenizer_free)(raw.cast()),
                Kind::DecodeStream => (api.decode_stream_free)(raw.cast()),
                Kind::Sample => (api.tokenized_sample_free)(raw.cast()),
                Kind::Dataset => (api.dataset_free)(raw.cast()),
                Kind::Schedule => (api.schedule_free)(raw.cast()),
                Kind::Context => (api.loss_context_free)(raw.cast()),
            }
        }
    }
}

const NONE: Picked = Picked { raw: null_mut(), is_live: false };

impl Drop for Handles<'_> {
    fn drop(&mut self) {
        for kind in Kind::ALL {
            for raw in std::mem::take(&mut self.live[kind as usize]) {
                self.call_free(kind, raw);
            }
        }
    }
}
