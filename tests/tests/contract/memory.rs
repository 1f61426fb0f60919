//! Memory that calls leave behind, measured in a process of its own.

use std::process::Command;
use std::ptr::null_mut;

use lambda_dpo_abi as abi;
use lambda_dpo_abi::tensor::Exported;
use lambda_dpo_tests::batches::{Problem, Rng};
use lambda_dpo_tests::table::{self, api, checked};
use tch::{Kind, Tensor};

pub const KIB: usize = 1 << 10;

const ALONE: &str = "LAMBDA_DPO_TEST_ALONE";

/// Runs the body of a test, named as cargo does, in a process where no other test runs.
pub fn alone(test: &str, body: impl FnOnce()) {
    if std::env::var(ALONE).is_ok_and(|name| name == test) {
        return body();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args(["--exact", test, "--nocapture"]).env(ALONE, test).output().unwrap();
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success() && text[0].contains("1 passed"), "{}{}", text[0], text[1]);
}

/// What `mallinfo2` of glibc returns.
#[repr(C)]
struct Mallinfo2 {
    arena: usize,
    free_chunks: usize,
    fast_chunks: usize,
    mapped_chunks: usize,
    mapped_bytes: usize,
    unused: usize,
    fast_bytes: usize,
    used_bytes: usize,
    free_bytes: usize,
    top_bytes: usize,
}

unsafe extern "C" {
    fn mallinfo2() -> Mallinfo2;
}

/// Bytes that the process has allocated and not freed, those of the library and of libtorch included.
pub fn bytes_in_use() -> usize {
    // SAFETY: it only reads malloc's counters.
    let info = unsafe { mallinfo2() };
    info.used_bytes + info.mapped_bytes
}

/// What is left of a call, to be given back in any order.
enum Left {
    Returned(abi::Tensor),
    Context(*mut abi::LossContext),
    Lent(Exported),
}

impl Left {
    fn give_back(self) {
        // SAFETY: of a call that succeeded, and given back once.
        unsafe {
            match self {
                Self::Returned(tensor) => abi::tensor::free_tensor(tensor),
                Self::Context(context) => (api().loss_context_free)(context),
                Self::Lent(tensor) => drop(tensor),
            }
        }
    }
}

/// 10⁴ forward calls, three of four with their backward, and what they return and were lent given back in 10⁴ random orders.
#[test]
fn nothing_of_a_call_stays() {
    const CALLS: usize = 10_000;
    alone("memory::nothing_of_a_call_stays", || {
        let mut rng = Rng(7);
        let problems: Vec<Problem> = (0..20).map(|seed| Problem::random(seed, Kind::Float)).collect();
        let mut calls = |num_calls: usize| {
            for number in 0..num_calls {
                let mut left = train(&problems[number % problems.len()], &mut rng);
                while !left.is_empty() {
                    left.swap_remove(rng.between(0, left.len() - 1)).give_back();
                }
            }
            bytes_in_use()
        };
        // The first thousand fill the caches of libtorch and of malloc.
        let (before, after) = (calls(1000), calls(CALLS));
        // The smallest allocation takes 32 bytes: one that stays of every tenth call makes 32 KiB.
        assert!(after <= before + 16 * KIB, "{before} bytes became {after} in {CALLS} calls");
    });
}

/// A forward and, mostly, its backward.
fn train(problem: &Problem, rng: &mut Rng) -> Vec<Left> {
    let mut left = Vec::new();
    let mut lend = |tensor: Option<&Tensor>| {
        tensor.map_or(null_mut(), |tensor| {
            let lent = abi::tensor::export(tensor).unwrap();
            let raw = lent.as_raw();
            left.push(Left::Lent(lent));
            raw
        })
    };
    let given = problem.inputs();
    // SAFETY: structs of the table, for which zeros are valid; every tensor is alive until it is given back.
    unsafe {
        let inputs = abi::LossInputs {
            hidden: lend(given.hidden),
            lm_head: lend(given.lm_head),
            target_positions: lend(given.target_positions),
            target_ids: lend(given.target_ids),
            target_sequences: lend(given.target_sequences),
            num_sequences: given.num_sequences as u64,
            reference_log_probs: lend(given.reference_log_probs),
            prompt_offsets: lend(given.prompt_offsets),
            sequence_index: lend(given.sequence_index),
            pi_target: lend(given.pi_target),
            target_mask: lend(given.target_mask),
            ranks: lend(given.ranks),
            lambda: lend(given.lambda),
            ..table::sized()
        };
        let options = abi::LossOptions {
            beta: 0.3,
            sft_weight: rng.between(0, 1) as f64,
            wants: abi::WANTS_HIDDEN | abi::WANTS_LM_HEAD,
            ..table::sized()
        };
        let (mut outputs, mut context) = (table::sized::<abi::LossOutputs>(), null_mut());
        checked(|e| (api().loss_forward)(&inputs, &options, &mut outputs, &mut context, e)).unwrap();
        left.push(Left::Context(context));
        left.extend(table::tensors_of(&outputs).map(Left::Returned));
        if rng.between(0, 3) > 0 {
            let mut gradients = table::sized::<abi::LossGradients>();
            checked(|e| (api().loss_backward)(context, &inputs, 1.0, &mut gradients, e)).unwrap();
            left.extend([gradients.hidden, gradients.lm_head].map(Left::Returned));
        }
    }
    left
}
