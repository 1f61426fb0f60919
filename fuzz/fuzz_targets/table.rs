//! The table as a careless caller uses it: options of any value, text of any bytes, tensors of any description over
//! valid memory. Every call must return a status; a panic is a finding.
#![no_main]

use std::mem::MaybeUninit;
use std::ptr::{null, null_mut, without_provenance, without_provenance_mut};

use arbitrary::Arbitrary;
use lambda_dpo_abi as abi;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Tensor {
    version: u8,
    device: u8,
    code: u8,
    bits: u8,
    lanes: u8,
    shape: Vec<u8>,
    strides: Option<Vec<i8>>,
    byte_offset: u8,
    is_null: bool,
}

#[derive(Arbitrary, Debug)]
struct Convert<'a> {
    record: &'a [u8],
    format: u8,
    best_worst_pairs: u8,
    dimensions: Option<Vec<&'a str>>,
    missing_rating: f64,
    temperature: f64,
    keep_all: u8,
    struct_size: Option<u8>,
}

#[derive(Arbitrary, Debug)]
struct Schedule {
    kind: u8,
    dimension: u8,
    num_dimensions: u8,
    alpha: f64,
    weights: Vec<f64>,
}

#[derive(Arbitrary, Debug)]
struct Loss {
    tensors: [Option<Tensor>; 12],
    num_sequences: u64,
    objective: u8,
    reduction: u8,
    beta: f64,
    normalizer: f64,
    logits_budget_bytes: u64,
    paper_exact: u8,
    wants: u8,
    cuda_stream: u8,
}

#[derive(Arbitrary, Debug)]
struct Collate<'a> {
    tokens: Vec<&'a [u8]>,
    lambda: [f64; 32],
    layout: u8,
    max_tokens: u16,
    pad_to_multiple_of: u8,
    /// A handle that may be invalid.
    handle: u8,
}

#[derive(Arbitrary, Debug)]
enum Call<'a> {
    Collate(Box<Collate<'a>>),
    Convert(Convert<'a>),
    Schedule(Schedule),
    Loss(Box<Loss>),
}

/// Memory of every tensor: small numbers in any dtype, large enough for every shape below.
static MEMORY: [u64; 1 << 16] = [1; 1 << 16];

/// A tensor with the shape and strides that it points to.
struct Lent {
    shape: Vec<i64>,
    strides: Option<Vec<i64>>,
    raw: abi::DLManagedTensorVersioned,
}

impl Tensor {
    /// At most three dimensions of size at most seven, so that the tensor lies in the memory.
    fn lend(&self) -> Box<Lent> {
        let shape: Vec<i64> = self.shape.iter().take(3).map(|size| i64::from(size % 8)).collect();
        let strides = self.strides.as_ref().map(|strides| {
            (0..shape.len()).map(|i| strides.get(i).map_or(1, |stride| i64::from(*stride))).collect::<Vec<_>>()
        });
        // Most have a supported dtype.
        let (code, bits) = match self.code % 8 {
            0 => (abi::DL_INT, 64),
            1 => (abi::DL_FLOAT, 32),
            2 => (abi::DL_FLOAT, 64),
            3 => (abi::DL_BFLOAT, 16),
            4 => (abi::DL_BOOL, 8),
            5 => (abi::DL_FLOAT, 16),
            _ => (self.code, self.bits),
        };
        let raw = abi::DLManagedTensorVersioned {
            version: abi::DLPackVersion { major: u32::from(self.version % 16 != 15), minor: 0 },
            manager_ctx: null_mut(),
            deleter: None,
            flags: abi::DLPACK_FLAG_READ_ONLY,
            dl_tensor: abi::DLTensor {
                data: if self.is_null { null_mut() } else { MEMORY.as_ptr().cast_mut().cast() },
                device: abi::DLDevice { device_type: if self.device < 250 { 1 } else { 2 }, device_id: 0 },
                ndim: shape.len() as i32,
                dtype: abi::DLDataType { code, bits, lanes: if self.lanes < 250 { 1 } else { 2 } },
                shape: null_mut(),
                strides: null_mut(),
                byte_offset: u64::from(self.byte_offset % 32) * 8,
            },
        };
        let mut lent = Box::new(Lent { shape, strides, raw });
        lent.raw.dl_tensor.shape = lent.shape.as_mut_ptr();
        lent.raw.dl_tensor.strides = lent.strides.as_mut().map_or(null_mut(), |strides| strides.as_mut_ptr());
        lent
    }
}

fn text(bytes: &[u8]) -> abi::Str {
    abi::Str { data: bytes.as_ptr(), len: bytes.len() }
}

/// # Safety
/// `T` must be a struct of the ABI with a `struct_size`.
unsafe fn sized<T>() -> T {
    unsafe {
        let mut value = MaybeUninit::<T>::zeroed();
        value.as_mut_ptr().cast::<usize>().write(size_of::<T>());
        value.assume_init()
    }
}

/// Checks that a call has not panicked.
fn status(status: abi::Status) -> abi::Status {
    assert_ne!(status, abi::STATUS_PANIC);
    status
}

unsafe fn convert(api: &abi::Api, call: &Convert) {
    let names: Option<Vec<abi::Str>> =
        call.dimensions.as_ref().map(|names| names.iter().map(|name| text(name.as_bytes())).collect());
    let options = abi::ConvertOptions {
        struct_size: call
            .struct_size
            .map_or(size_of::<abi::ConvertOptions>(), usize::from)
            .min(size_of::<abi::ConvertOptions>()),
        format: call.format.into(),
        best_worst_pairs: call.best_worst_pairs.into(),
        dimensions: names.as_ref().map_or(null(), Vec::as_ptr),
        num_dimensions: names.as_ref().map_or(0, Vec::len),
        missing_rating: call.missing_rating,
        temperature: call.temperature,
        max_samples: 0,
        exclude_sources: null(),
        num_exclude_sources: 0,
        keep_all: call.keep_all.into(),
        reserved: 0,
    };
    let mut sample = abi::Bytes { data: null_mut(), len: 0, capacity: 0 };
    unsafe {
        status((api.convert_record)(text(call.record), 0, &options, &mut sample, null_mut()));
        (api.bytes_free)(&mut sample);
    }
}

unsafe fn schedule(api: &abi::Api, call: &Schedule) {
    let m = usize::from(call.num_dimensions % 8);
    if call.weights.len() < m {
        return;
    }
    unsafe {
        let options = abi::ScheduleOptions {
            kind: call.kind.into(),
            dimension: call.dimension.into(),
            num_dimensions: m,
            alpha: call.alpha,
            weights: call.weights.as_ptr(),
            num_rows: call.weights.len() / m.max(1),
            probabilities: call.weights.as_ptr(),
            ..sized()
        };
        let (mut handle, mut lambda) = (null_mut(), [0.0; 8]);
        if status((api.schedule_new)(&options, &mut handle, null_mut())) == abi::STATUS_OK {
            status((api.schedule_draw_instance)(handle, 1, 2, 3, lambda.as_mut_ptr(), null_mut()));
            let sum: f64 = lambda[..m].iter().sum();
            assert!((sum - 1.0).abs() < 1e-6 && lambda.iter().all(|weight| *weight >= 0.0), "{lambda:?}");
            (api.schedule_free)(handle);
        }
    }
}

unsafe fn loss(api: &abi::Api, call: &Loss) {
    let mut lent: Vec<Option<Box<Lent>>> = call.tensors.iter().map(|t| t.as_ref().map(Tensor::lend)).collect();
    let mut raw = lent.iter_mut().map(|lent| lent.as_mut().map_or(null_mut(), |lent| &raw mut lent.raw));
    let mut next = || raw.next().unwrap_or(null_mut());
    unsafe {
        let inputs = abi::LossInputs {
            hidden: next(),
            lm_head: next(),
            logits: next(),
            sequence_log_probs: next(),
            target_positions: next(),
            target_ids: next(),
            target_sequences: next(),
            num_sequences: if call.num_sequences < u64::MAX / 2 { call.num_sequences % 8 } else { call.num_sequences },
            prompt_offsets: next(),
            sequence_index: next(),
            pi_target: next(),
            target_mask: next(),
            lambda: next(),
            // Most have no stream, as on the CPU.
            cuda_stream: without_provenance_mut(usize::from(call.cuda_stream).saturating_sub(250)),
            ..sized()
        };
        let options = abi::LossOptions {
            objective: (call.objective % 3).into(),
            reduction: (call.reduction % 3).into(),
            beta: call.beta,
            normalizer: call.normalizer,
            logits_budget_bytes: call.logits_budget_bytes,
            paper_exact: (call.paper_exact % 3).into(),
            wants: (call.wants % 32).into(),
            ..sized()
        };
        let (mut outputs, mut context) = (sized::<abi::LossOutputs>(), null_mut());
        let forward = (api.loss_forward)(&inputs, &options, &mut outputs, &mut context, null_mut());
        if status(forward) == abi::STATUS_OK {
            let mut gradients = sized::<abi::LossGradients>();
            if !context.is_null() {
                status((api.loss_backward)(context, &inputs, 1.0, &mut gradients, null_mut()));
                (api.loss_context_free)(context);
            }
            for tensor in [gradients.hidden, gradients.lm_head, gradients.logits, gradients.sequence_log_probs] {
                abi::tensor::free_tensor(tensor);
            }
            for tensor in [
                outputs.loss,
                outputs.token_log_probs,
                outputs.sequence_log_probs,
                outputs.rewards,
                outputs.prompt_losses,
                outputs.dimension_losses,
                outputs.dimension_mask,
                outputs.accuracies,
                outputs.dimension_accuracies,
                outputs.margins,
            ] {
                abi::tensor::free_tensor(tensor);
            }
        }
    }
}

unsafe fn collate(api: &abi::Api, call: &Collate) {
    let (mut samples, mut bytes) = (Vec::new(), abi::Bytes { data: null_mut(), len: 0, capacity: 0 });
    unsafe {
        for tokens in call.tokens.iter().take(8) {
            let mut sample = null_mut();
            if status((api.tokenized_sample_new)(text(tokens), &mut sample, null_mut())) == abi::STATUS_OK {
                status((api.tokenized_sample_tokens)(sample, &mut bytes, null_mut()));
                (api.bytes_free)(&mut bytes);
                samples.push(sample.cast_const());
            }
        }
        // A handle that was never returned.
        samples.extend((call.handle > 200).then(|| without_provenance(call.handle.into())));
        // λ holds M numbers for each sample only if M is small; samples with more are not collated.
        let num_dimensions = |sample: &&[u8]| sample.iter().filter(|byte| **byte == b'[').count();
        if call.tokens.iter().map(num_dimensions).max().unwrap_or(0) * samples.len() <= call.lambda.len() {
            let options = abi::CollateOptions {
                layout: (call.layout % 4).into(),
                max_tokens: call.max_tokens.into(),
                pad_to_multiple_of: call.pad_to_multiple_of.into(),
                ..sized()
            };
            let mut batch = sized::<abi::Batch>();
            let lambda = call.lambda.as_ptr();
            status((api.collate)(samples.as_ptr(), samples.len(), lambda, &options, &mut batch, null_mut()));
            (api.batch_free)(&mut batch);
        }
        for sample in samples {
            (api.tokenized_sample_free)(sample.cast_mut());
            (api.tokenized_sample_free)(sample.cast_mut());
        }
        let handle = without_provenance_mut::<u8>(call.handle.into());
        status((api.dataset_info)(handle.cast(), &mut bytes, null_mut()));
        (api.bytes_free)(&mut bytes);
        status((api.reader_next)(handle.cast(), &mut bytes, null_mut()));
        (api.bytes_free)(&mut bytes);
    }
}

fuzz_target!(|calls: Vec<Call>| {
    let mut api = null();
    // SAFETY: every pointer is valid or NULL, or a handle that the table must check; every length is that of its memory.
    unsafe {
        assert_eq!(lambda_dpo::lambda_dpo_get_api(abi::ABI_MAJOR, abi::ABI_MINOR, &mut api, null_mut()), 0);
        let api = &*api;
        for call in calls {
            match call {
                Call::Collate(call) => collate(api, &call),
                Call::Convert(call) => convert(api, &call),
                Call::Schedule(call) => schedule(api, &call),
                Call::Loss(call) => loss(api, &call),
            }
        }
    }
});
