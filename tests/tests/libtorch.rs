//! What `libtorch::prepare` does before the first operation: libtorch_cuda is opened, and the number of threads is fixed.
//! A test program with one test, because that is done once per process.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::ffi::c_int;

use lambda_dpo_host::libtorch::{self, Libtorch};
use tch::{Device, Kind, Tensor};

#[test]
fn cuda_is_opened_threads_are_fixed_and_algorithms_deterministic_if_asked() {
    let device = libtorch::prepare("auto").unwrap().device();
    let has_library =
        std::fs::exists(concat!(env!("CARGO_MANIFEST_DIR"), "/../.libtorch/lib/libtorch_cuda.so")).unwrap();
    assert_eq!(tch::utils::has_cudart(), has_library);
    if device == Device::Cpu {
        for request in ["cuda", "cuda:1"] {
            let message = libtorch::prepare(request).unwrap_err().to_string();
            let start = format!("device = \"{request}\" asks for CUDA, but no CUDA device is available (");
            assert!(message.starts_with(&start), "{message}");
            assert!(message.ends_with("); use \"cpu\" or \"auto\""), "{message}");
        }
    } else {
        let message = libtorch::prepare("cuda:99").unwrap_err().to_string();
        assert!(message.starts_with("device = \"cuda:99\" does not exist: this machine has "), "{message}");
    }
    assert_eq!(libtorch::prepare("cpu").unwrap(), Libtorch::cpu());
    // A fresh run computes with as many threads as one that is resumed, which sets their number: no product uses fewer.
    assert!(!mkl_chooses_threads().unwrap_or(false));
    libtorch::set_num_threads(1);
    assert_eq!(libtorch::num_threads(), 1);
    assert!(!mkl_chooses_threads().unwrap_or(false));

    only_deterministic_algorithms_run();
}

/// Whether MKL may use fewer threads than were set; None if libtorch was built without MKL.
fn mkl_chooses_threads() -> Option<bool> {
    let process = libloading::os::unix::Library::this();
    // SAFETY: it is MKL's `mkl_get_dynamic`, which takes nothing.
    unsafe { process.get::<unsafe extern "C" fn() -> c_int>(b"mkl_serv_get_dynamic\0").ok().map(|get| get() != 0) }
}

/// `put_` without accumulation is one of the few operations that has no deterministic algorithm on a CPU.
fn only_deterministic_algorithms_run() {
    let put = || {
        Tensor::zeros([3], (Kind::Float, Device::Cpu))
            .f_put_(&Tensor::from_slice(&[1_i64]), &Tensor::from_slice(&[2.0_f32]), false)
            .map(|tensor| tensor.double_value(&[1]))
    };
    assert_eq!(put().unwrap(), 2.0);
    libtorch::use_deterministic_algorithms().unwrap();
    let message = put().unwrap_err().to_string();
    assert!(message.contains("put_ does not have a deterministic implementation"), "{message}");
    assert_eq!(std::env::var("CUBLAS_WORKSPACE_CONFIG").unwrap(), ":4096:8");
    // What training uses still runs.
    let sums = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
    let ones = Tensor::ones([4, 3], (Kind::Float, Device::Cpu));
    let sums = sums.f_index_add(0, &Tensor::from_slice(&[0_i64, 1, 1, 0]), &ones).unwrap();
    assert_eq!(sums, Tensor::full([2, 3], 2.0, (Kind::Float, Device::Cpu)));
}
