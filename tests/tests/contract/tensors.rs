//! Tensors over DLPack: dtypes, strides, offsets, empty tensors and read-only memory; anything else is refused with the
//! name of the argument.

use std::ffi::c_void;
use std::ptr::null_mut;

use lambda_dpo_abi as abi;
use lambda_dpo_tests::fixture;
use lambda_dpo_tests::table::{self, Failure, api, checked};
use tch::{Kind, Tensor};

/// A tensor in memory of the test, without a deleter.
struct Lent {
    shape: Vec<i64>,
    strides: Option<Vec<i64>>,
    raw: abi::DLManagedTensorVersioned,
}

const INT64: abi::DLDataType = abi::DLDataType { code: abi::DL_INT, bits: 64, lanes: 1 };
const FLOAT32: abi::DLDataType = abi::DLDataType { code: abi::DL_FLOAT, bits: 32, lanes: 1 };

impl Lent {
    fn new<T>(data: &[T], dtype: abi::DLDataType, shape: &[i64]) -> Self {
        let raw = abi::DLManagedTensorVersioned {
            version: abi::DLPackVersion { major: 1, minor: 1 },
            manager_ctx: null_mut(),
            deleter: None,
            flags: 0,
            dl_tensor: abi::DLTensor {
                data: data.as_ptr().cast_mut().cast::<c_void>(),
                device: abi::DLDevice { device_type: abi::DL_CPU, device_id: 0 },
                ndim: i32::try_from(shape.len()).unwrap(),
                dtype,
                shape: null_mut(),
                strides: null_mut(),
                byte_offset: 0,
            },
        };
        Self { shape: shape.to_vec(), strides: None, raw }
    }

    fn strides(mut self, strides: &[i64]) -> Self {
        self.strides = Some(strides.to_vec());
        self
    }

    fn with(mut self, change: impl FnOnce(&mut abi::DLManagedTensorVersioned)) -> Self {
        change(&mut self.raw);
        self
    }

    fn raw(&mut self) -> abi::Tensor {
        self.raw.dl_tensor.shape = self.shape.as_mut_ptr();
        self.raw.dl_tensor.strides = self.strides.as_mut().map_or(null_mut(), |strides| strides.as_mut_ptr());
        &mut self.raw
    }
}

/// Decodes borrowed ids, the simplest call that takes a tensor.
fn decode(mut ids: Lent) -> Result<String, Failure> {
    decode_raw(ids.raw())
}

fn decode_raw(ids: abi::Tensor) -> Result<String, Failure> {
    let tokenizer = table::tokenizer_open(&fixture("words")).unwrap();
    let mut text = table::no_bytes();
    // SAFETY: all pointers are valid except those under test, which are refused before they are read.
    checked(|e| unsafe { (api().tokenizer_decode)(tokenizer.raw(), ids, 0, &mut text, e) })?;
    Ok(table::take_text(text).unwrap())
}

/// The tokens of "what is it red one two".
const IDS: [i64; 6] = [5, 7, 20, 21, 29, 30];

#[test]
fn strides_and_offsets_are_respected() {
    let lent = || Lent::new(&IDS, INT64, &[6]);
    assert_eq!(decode(lent()).unwrap(), "what is it red one two");
    let every_other = Lent { shape: vec![3], ..lent() };
    assert_eq!(decode(every_other.strides(&[2])).unwrap(), "what it one");
    let from_the_third = Lent { shape: vec![2], ..lent() }.with(|raw| raw.dl_tensor.byte_offset = 16);
    assert_eq!(decode(from_the_third).unwrap(), "it red");
    let expanded = Lent { shape: vec![3], ..lent() };
    assert_eq!(decode(expanded.strides(&[0])).unwrap(), "what what what");
}

#[test]
fn empty_tensors_have_no_data() {
    let empty = Lent::new(&IDS, INT64, &[0]).with(|raw| raw.dl_tensor.data = null_mut());
    assert_eq!(decode(empty).unwrap(), "");
}

#[test]
fn read_only_memory_is_read() {
    let lent = Lent::new(&IDS, INT64, &[6]).with(|raw| raw.flags = abi::DLPACK_FLAG_READ_ONLY);
    assert_eq!(decode(lent).unwrap(), "what is it red one two");
}

#[test]
fn unsupported_tensors_are_refused_by_name() {
    let refused = |lent: Lent, problem: &str| {
        let (status, message) = decode(lent).unwrap_err();
        assert_eq!((status, message.as_str()), (abi::STATUS_INVALID_ARGUMENT, &*format!("tensor `ids`: {problem}")));
    };
    let lent = || Lent::new(&IDS, INT64, &[6]);
    let dtype = |code, bits, lanes| lent().with(|raw| raw.dl_tensor.dtype = abi::DLDataType { code, bits, lanes });
    let known = "only float32, float64, float16, bfloat16, int64 and bool";
    for (code, bits, lanes, name) in [
        (abi::DL_INT, 32, 1, "int32"),
        (abi::DL_UINT, 8, 1, "uint8"),
        (abi::DL_UINT, 64, 1, "uint64"),
        (5, 64, 1, "complex64"),
        (abi::DL_FLOAT, 32, 4, "float32x4"),
        (abi::DL_FLOAT, 8, 1, "float8"),
        (abi::DL_BFLOAT, 32, 1, "bfloat32"),
        (99, 3, 1, "with DLPack code 99 (3 bits)"),
    ] {
        refused(dtype(code, bits, lanes), &format!("dtype {name} is not supported, {known}"));
    }
    for (device_type, name) in [(0, 0), (3, 3), (8, 8), (10, 10), (-1, -1)] {
        let lent = lent().with(|raw| raw.dl_tensor.device.device_type = device_type);
        refused(lent, &format!("DLPack device type {name} is not supported, only CPU and CUDA"));
    }
    if !tch::Cuda::is_available() {
        let lent = lent().with(|raw| raw.dl_tensor.device = abi::DLDevice { device_type: abi::DL_CUDA, device_id: 0 });
        refused(lent, "it is on CUDA device 0, but libtorch has 0 CUDA devices here");
    }
    for major in [0, 2, u32::MAX] {
        let lent = lent().with(|raw| raw.version.major = major);
        refused(lent, &format!("DLPack major version {major} is not supported, only 1"));
    }
    refused(lent().strides(&[-1]), "the tensor has a negative stride, -1");
    refused(lent().with(|raw| raw.dl_tensor.data = null_mut()), "the tensor's data is NULL, but it is not empty");
    refused(lent().with(|raw| raw.dl_tensor.byte_offset = 4), "the tensor's data is not aligned to its dtype");
    refused(lent().with(|raw| raw.dl_tensor.ndim = -1), "ndim is -1, expected 0 to 64");
    refused(lent().with(|raw| raw.dl_tensor.ndim = 65), "ndim is 65, expected 0 to 64");
    refused(Lent { shape: vec![-6], ..lent() }, "the tensor has a negative size, -6");
    let huge = "the tensor's sizes and strides exceed the memory of any machine";
    refused(Lent { shape: vec![i64::MAX], ..lent() }, huge);
    refused(lent().strides(&[i64::MAX]), huge);
    let wide = Lent { shape: vec![1 << 40, 1 << 40], ..lent() };
    refused(wide.with(|raw| raw.dl_tensor.ndim = 2), huge);
}

#[test]
fn a_shape_that_is_null_is_refused() {
    let mut lent = Lent::new(&IDS, INT64, &[6]);
    let raw = lent.raw();
    // SAFETY: our own struct.
    unsafe { (*raw).dl_tensor.shape = null_mut() };
    assert_eq!(decode_raw(raw).unwrap_err().1, "tensor `ids`: the tensor's shape is NULL");
}

#[test]
fn shapes_and_dtypes_that_do_not_fit_the_call_are_reported() {
    let (status, message) = decode(Lent::new(&[0.0_f32; 6], FLOAT32, &[6])).unwrap_err();
    assert_eq!(status, abi::STATUS_INVALID_ARGUMENT);
    assert_eq!(message, "`ids` is Float [6], expected int64 [num_tokens]");
    let (_, message) = decode(Lent::new(&IDS, INT64, &[2, 3])).unwrap_err();
    assert_eq!(message, "`ids` is Int64 [2, 3], expected int64 [num_tokens]");
}

/// The listwise loss of two sequences with log-probs of any dtype, and its gradient.
fn loss_of(log_probs: &mut Lent) -> Result<(f64, Tensor), Failure> {
    let (offsets, pi, lambda) = ([0_i64, 2], [0.75_f32, 0.25], [1.0_f32]);
    let (mut offsets, mut pi, mut lambda) =
        (Lent::new(&offsets, INT64, &[2]), Lent::new(&pi, FLOAT32, &[1, 2]), Lent::new(&lambda, FLOAT32, &[1, 1]));
    // SAFETY: all pointers are valid during the calls; every result is freed once.
    unsafe {
        let inputs = abi::LossInputs {
            sequence_log_probs: log_probs.raw(),
            num_sequences: 2,
            prompt_offsets: offsets.raw(),
            pi_target: pi.raw(),
            lambda: lambda.raw(),
            ..table::sized()
        };
        let options = abi::LossOptions { beta: 1.0, wants: abi::WANTS_SEQUENCE_LOG_PROBS, ..table::sized() };
        let (mut outputs, mut context) = (table::sized::<abi::LossOutputs>(), null_mut());
        checked(|e| (api().loss_forward)(&inputs, &options, &mut outputs, &mut context, e))?;
        let mut gradients = table::sized::<abi::LossGradients>();
        checked(|e| (api().loss_backward)(context, &inputs, 1.0, &mut gradients, e))?;
        (api().loss_context_free)(context);
        let loss = std::mem::replace(&mut outputs.loss, null_mut());
        table::free_outputs(outputs);
        let loss = abi::tensor::import(loss).unwrap().double_value(&[]);
        Ok((loss, abi::tensor::import(gradients.sequence_log_probs).unwrap()))
    }
}

#[test]
fn every_floating_dtype_is_accepted_and_gradients_have_the_same() {
    let expected = {
        let log_policy = |own: f64, other: f64| -((other - own).exp().ln_1p());
        -(0.75 * log_policy(-1.5, -2.0) + 0.25 * log_policy(-2.0, -1.5))
    };
    let dtype = |code, bits| abi::DLDataType { code, bits, lanes: 1 };
    // −1.5 and −2.0 in each dtype.
    let mut lent = [
        (Lent::new(&[-1.5_f64, -2.0], dtype(abi::DL_FLOAT, 64), &[2]), Kind::Double),
        (Lent::new(&[-1.5_f32, -2.0], FLOAT32, &[2]), Kind::Float),
        (Lent::new(&[0xBFC0_u16, 0xC000], dtype(abi::DL_BFLOAT, 16), &[2]), Kind::BFloat16),
        (Lent::new(&[0xBE00_u16, 0xC000], dtype(abi::DL_FLOAT, 16), &[2]), Kind::Half),
    ];
    for (log_probs, kind) in &mut lent {
        log_probs.raw.flags = abi::DLPACK_FLAG_READ_ONLY;
        let (loss, gradient) = loss_of(log_probs).unwrap();
        assert!((loss - expected).abs() < 1e-6, "{kind:?}: {loss} for {expected}");
        assert_eq!(gradient.kind(), *kind);
        assert!(gradient.sum(Kind::Double).double_value(&[]).abs() < 1e-2);
    }
}

#[test]
fn log_probs_may_be_strided_and_expanded() {
    let values = [-1.5_f32, 9.0, -2.0];
    let (plain, _) = loss_of(&mut Lent::new(&[-1.5_f32, -2.0], FLOAT32, &[2])).unwrap();
    let (strided, _) = loss_of(&mut Lent::new(&values, FLOAT32, &[2]).strides(&[2])).unwrap();
    assert_eq!(strided, plain);
    let (expanded, gradient) = loss_of(&mut Lent::new(&values, FLOAT32, &[2]).strides(&[0])).unwrap();
    assert!((expanded - std::f64::consts::LN_2).abs() < 1e-7);
    assert_eq!(gradient.size(), [2]);
}

/// A field that the loss reads on the CPU is refused on a GPU, by name and before its memory is touched.
#[test]
fn fields_that_are_read_on_the_cpu_stay_there() {
    let values = [0.0_f32; 8];
    let on_cuda = || {
        Lent::new(&values, FLOAT32, &[2]).with(|raw| {
            raw.dl_tensor.device = abi::DLDevice { device_type: abi::DL_CUDA, device_id: 3 };
        })
    };
    let log_probs = Tensor::from_slice(&[-1.5_f32, -2.0]);
    let log_probs = abi::tensor::export(&log_probs).unwrap();
    macro_rules! refused {
        ($($field:ident),+) => {$({
            let mut misplaced = on_cuda();
            // SAFETY: all pointers are valid; nothing is returned.
            let failure = unsafe {
                let inputs = abi::LossInputs {
                    sequence_log_probs: log_probs.as_raw(),
                    num_sequences: 2,
                    $field: misplaced.raw(),
                    ..table::sized()
                };
                let (options, mut outputs) = (table::sized::<abi::LossOptions>(), table::sized::<abi::LossOutputs>());
                checked(|e| (api().loss_forward)(&inputs, &options, &mut outputs, null_mut(), e)).unwrap_err()
            };
            let field = stringify!($field);
            let sentence = format!(
                "tensor `{field}` is on CUDA device 3, but it is read on the CPU: leave it in main memory"
            );
            assert_eq!(failure, (abi::STATUS_INVALID_ARGUMENT, sentence));
        })+};
    }
    refused!(
        target_positions,
        target_ids,
        target_sequences,
        reference_log_probs,
        prompt_offsets,
        sequence_index,
        pi_target,
        target_mask,
        lambda
    );
}

#[test]
fn integers_are_not_log_probs() {
    let (status, message) = loss_of(&mut Lent::new(&IDS, INT64, &[2])).unwrap_err();
    assert_eq!(status, abi::STATUS_INVALID_ARGUMENT);
    assert_eq!(message, "sequence_log_probs is int64, but it must be float32, bfloat16, float16 or float64");
}
