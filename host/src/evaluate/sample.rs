//! An evaluation for tests of what is made from one.

use indexmap::IndexMap;

use super::estimate::Estimate;
use super::evaluation::{
    Evaluation, Kl, MeanLength, PolicyAndReference, Rate, RunFigures, Settings, Sides, Spearman, Subject, WinRate,
};

/// Returns an evaluation in which everything was measured.
pub fn evaluation() -> Evaluation {
    let estimate = |mean, stderr| Estimate { mean, stderr: Some(stderr) };
    let both = |policy, reference| PolicyAndReference {
        policy: Some(estimate(policy, 0.031)),
        reference: Some(estimate(reference, 0.029)),
    };
    let rate = |rate, wins, ties, losses| Rate {
        rate,
        stderr: Some(0.028),
        interval: [rate - 0.055, rate + 0.055],
        length_controlled: Some(rate - 0.04),
        wins,
        ties,
        losses,
    };
    let sides = |policy, against| Sides { policy: estimate(policy, 0.04), against: Some(estimate(against, 0.05)) };
    let names = ["helpfulness", "honesty", "instruction_following", "truthfulness"];
    let records = [
        ("loss", 1.1234),
        ("rewards/accuracies", 0.8125),
        ("rewards/margins", 1.204),
        ("logps/ratio", -7.31),
        ("loss/helpfulness", 1.1),
        ("loss/honesty", 1.15),
        ("expected_rating/helpfulness", 3.91),
        ("expected_rating/honesty", 4.02),
        ("expected_rating/instruction_following", 3.55),
        ("expected_rating/truthfulness", 4.2),
    ];
    let lambda = |weight: f64| names.iter().map(|name| ((*name).to_owned(), weight)).collect::<IndexMap<_, _>>();
    Evaluation {
        subject: Subject {
            model: "models/SmolLM2-135M".into(),
            adapter: Some("runs/uniform-1/adapter".into()),
            lambda: Some(lambda(0.25)),
            reference: "adapter_off".into(),
        },
        settings: Settings {
            dimensions: names.map(str::to_owned).to_vec(),
            lambda: vec![0.25; 4],
            beta: 0.1,
            reduction: "sum".into(),
            num_records: 200,
            num_prompts: 100,
            num_samples: 2,
            max_new_tokens: 128,
            temperature: 1.0,
            seed: 42,
            judge: Some("python3 rate.py".into()),
            against: Some("reference".into()),
        },
        records: records.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect(),
        kl: Some(Kl { k1: Some(estimate(5.2, 0.4)), k3: Some(estimate(4.9, 0.21)), tokens: estimate(0.1034, 0.0021) }),
        spearman: Spearman { sum: both(-0.912, -0.955), mean: both(0.102, 0.21) },
        scores: [("helpfulness", sides(3.9, 3.1)), ("honesty", sides(4.1, 3.9))]
            .into_iter()
            .map(|(name, sides)| (name.to_owned(), sides))
            .collect(),
        win_rate: Some(WinRate {
            overall: rate(0.615, 110, 26, 64),
            mean_length: MeanLength { policy: 143.2, against: 121.7 },
            scores: [("helpfulness", rate(0.66, 120, 24, 56)), ("honesty", rate(0.5225, 80, 49, 71))]
                .into_iter()
                .map(|(name, rate)| (name.to_owned(), rate))
                .collect(),
        }),
        run: Some(RunFigures {
            folder: "runs/uniform-1".into(),
            steps: 190,
            seconds: 12.61,
            tokens_per_second: 14_210.0,
            peak_memory_bytes: 504_991_744,
        }),
    }
}
