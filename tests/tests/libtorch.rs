//! libtorch_cuda is opened before the first call of libtorch. A test program with one test, because that call is made
//! once per process.

#![expect(clippy::unwrap_used, reason = "tests")]

use lambda_dpo_host::libtorch::{self, Libtorch};
use tch::Device;

#[test]
fn cuda_is_available_if_libtorch_has_it_and_refused_otherwise() {
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
    libtorch::set_num_threads(1);
    assert_eq!(libtorch::num_threads(), 1);
}
