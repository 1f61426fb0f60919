//! Samples on disk → batches.

use super::store::Store;
use crate::tokenize::TokenizedSample;
use crate::{Batch, CollateOptions, Error, Result, collate};

/// Samples on disk.
#[derive(Debug)]
pub(super) struct Samples {
    pub(super) store: Store,
}

impl Samples {
    pub(super) fn collate(&self, indices: &[usize], lambda: &[f64], options: &CollateOptions) -> Result<Batch> {
        let samples = indices.iter().map(|&index| self.get(index)).collect::<Result<Vec<_>>>()?;
        collate(&samples.iter().collect::<Vec<_>>(), lambda, options)
    }

    pub(super) fn get(&self, index: usize) -> Result<TokenizedSample> {
        self.store.read(index)?.ok_or_else(|| {
            let len = self.store.len();
            Error::InvalidArgument(format!("index {index} is out of range: the dataset has {len} samples"))
        })
    }
}
