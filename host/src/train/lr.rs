//! Learning-rate schedules, with the values of Transformers' `get_scheduler`.

use crate::config::{LrSchedulerType, TrainSection};

/// The learning rate of every optimiser update of a run.
#[derive(Clone, Copy, Debug)]
pub struct LrSchedule {
    kind: LrSchedulerType,
    peak: f64,
    warmup_steps: u64,
    max_steps: u64,
}

impl LrSchedule {
    /// Makes a schedule over `max_steps` updates, the first `ceil(warmup_ratio · max_steps)` of them warm-up.
    pub fn new(train: &TrainSection, max_steps: u64) -> Self {
        let warmup_steps = (train.warmup_ratio * max_steps as f64).ceil() as u64;
        Self { kind: train.lr_scheduler_type, peak: train.learning_rate, warmup_steps, max_steps }
    }

    /// Returns the learning rate of the update after `step` finished ones.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * step as f64 / self.warmup_steps as f64;
        }
        let progress =
            (step - self.warmup_steps) as f64 / (self.max_steps.saturating_sub(self.warmup_steps)).max(1) as f64;
        let factor = match self.kind {
            LrSchedulerType::Constant | LrSchedulerType::ConstantWithWarmup => 1.0,
            LrSchedulerType::Linear => 1.0 - progress,
            LrSchedulerType::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
        };
        self.peak * factor.max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // from transformers import get_scheduler
    // s = get_scheduler(name, torch.optim.AdamW([p], lr=1.0), num_warmup_steps=3, num_training_steps=10)
    // for i in range(11): print(s.get_last_lr()[0]); o.step(); s.step()
    const WARMUP: [f64; 3] = [0.0, 0.3333333333333333, 0.6666666666666666];
    const LINEAR: [f64; 8] = [
        1.0,
        0.8571428571428571,
        0.7142857142857143,
        0.5714285714285714,
        0.42857142857142855,
        0.2857142857142857,
        0.14285714285714285,
        0.0,
    ];
    const COSINE: [f64; 8] = [
        1.0,
        0.9504844339512095,
        0.8117449009293668,
        0.6112604669781572,
        0.38873953302184283,
        0.18825509907063326,
        0.04951556604879048,
        0.0,
    ];

    #[test]
    fn schedules_are_those_of_transformers() {
        let cases = [
            (LrSchedulerType::Constant, [1.0; 8]),
            (LrSchedulerType::Linear, LINEAR),
            (LrSchedulerType::Cosine, COSINE),
        ];
        for (lr_scheduler_type, expected) in cases {
            // ceil(0.21 * 10) = 3
            let train =
                TrainSection { lr_scheduler_type, learning_rate: 1.0, warmup_ratio: 0.21, ..TrainSection::default() };
            let schedule = LrSchedule::new(&train, 10);
            for (step, expected) in (0..).zip(WARMUP.iter().chain(&expected)) {
                let rate = schedule.at(step);
                assert!((rate - expected).abs() < 1e-15, "{lr_scheduler_type} at {step}: {rate}, not {expected}");
            }
        }
    }

    #[test]
    fn a_run_that_only_warms_up_has_no_division_by_zero() {
        let train = TrainSection { warmup_ratio: 1.0, learning_rate: 1.0, ..TrainSection::default() };
        let schedule = LrSchedule::new(&train, 2);
        assert_eq!([schedule.at(0), schedule.at(1), schedule.at(2)], [0.0, 0.5, 1.0]);
    }
}
