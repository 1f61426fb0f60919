//! Calls of the table, as an input's bytes describe them.
//!
//! As in [`crate::arguments`], the order of the variants and the types of their fields say what the bytes of the corpus
//! mean.

use arbitrary::Arbitrary;

use crate::arguments::{Collate, Convert, Dataset, Schedule};
use crate::handles::Choice;
use crate::lent::Description;
use crate::losses::Loss;

/// A call, or a few that belong together.
#[derive(Arbitrary, Debug)]
pub enum Call<'a> {
    /// `build_info`.
    BuildInfo,
    /// `convert_record`: the record.
    ConvertRecord(&'a [u8], Convert<'a>),
    /// `reader_open`: paths, and the one that is no file of ours.
    ReaderOpen(Vec<Choice>, &'a str, Convert<'a>),
    /// `reader_open_arrow`: the records of the stream.
    ReaderOpenArrow(&'a str, Convert<'a>),
    /// `reader_to_arrow`, and the reading of the stream: the reader.
    ReaderToArrow(Choice),
    /// `reader_to_arrow`, and `reader_open_arrow` with the stream: the reader.
    ReaderOfReader(Choice, Convert<'a>),
    /// `reader_next`: the reader.
    ReaderNext(Choice),
    /// `reader_report`: the reader.
    ReaderReport(Choice),
    /// `tokenizer_open`: the folder and the template.
    TokenizerOpen(Choice, &'a str),
    /// `tokenizer_info`: the tokenizer.
    TokenizerInfo(Choice),
    /// `tokenizer_render`: the tokenizer, messages, and whether a prompt for an answer follows.
    TokenizerRender(Choice, &'a [u8], Choice),
    /// `tokenizer_encode`: the tokenizer and the text.
    TokenizerEncode(Choice, &'a [u8]),
    /// `tokenizer_decode`: the tokenizer, ids, and whether special tokens are left out.
    TokenizerDecode(Choice, Option<Description>, Choice),
    /// `decode_stream_new`: the tokenizer, and whether special tokens are left out.
    DecodeStreamNew(Choice, Choice),
    /// `decode_stream_step`: the stream and the id.
    DecodeStreamStep(Choice, i16),
    /// `decode_stream_finish`: the stream.
    DecodeStreamFinish(Choice),
    /// `tokenize`: the tokenizer, the sample, and its options.
    Tokenize(Choice, &'a [u8], u8, Choice),
    /// `tokenized_sample_new`: the tokens.
    TokenizedSampleNew(&'a [u8]),
    /// `tokenized_sample_tokens`: the sample.
    TokenizedSampleTokens(Choice),
    /// `collate`, and the loss of the batch: the samples.
    Collate(Vec<Choice>, Box<Collate>, Box<Loss>),
    /// `dataset_open`: paths, and the one that is no file of ours.
    DatasetOpen(Vec<Choice>, &'a str, Box<Dataset<'a>>),
    /// `dataset_open_arrow`: the records of the stream.
    DatasetOpenArrow(&'a str, Box<Dataset<'a>>),
    /// `dataset_len`: the dataset.
    DatasetLen(Choice),
    /// `dataset_info`: the dataset.
    DatasetInfo(Choice),
    /// `dataset_samples`: the dataset.
    DatasetSamples(Choice),
    /// `dataset_batch`, and the loss of the batch: the dataset and the samples' indices.
    DatasetBatch(Choice, Vec<u8>, Box<Collate>, Box<Loss>),
    /// `dataset_prefetch`: the dataset and the samples' indices.
    DatasetPrefetch(Choice, Vec<u8>, Box<Collate>),
    /// `schedule_new`.
    ScheduleNew(Schedule),
    /// `schedule_draw_instance` and `schedule_draw_step`: the schedule, the seed, and the record's index or the step.
    ScheduleDraws(Choice, u64, u64),
    /// `renormalize_lambda`: offsets, mask and λ.
    RenormalizeLambda([Option<Description>; 3]),
    /// `log_probs`.
    LogProbs(Box<Loss>),
    /// `loss_forward`.
    Loss(Box<Loss>),
    /// `loss_backward` of a context that another call has made, with inputs of its own.
    Backward(Choice, Box<Loss>),
    /// The freeing of a handle: the type it is freed as, and the handle.
    Free(Choice, Choice),
}
