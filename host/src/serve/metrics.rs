//! What `/metrics` shows, in Prometheus' text format.

use prometheus::{
    Encoder as _, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

/// Counters and gauges of a server.
pub(super) struct Metrics {
    registry: Registry,
    /// Requests by route and HTTP status; 499 if the client left before its answer began.
    pub(super) requests: IntCounterVec,
    /// Texts that wait for their first step.
    queue_length: IntGauge,
    /// Texts that are in the engine's batch.
    pub(super) batch_size: IntGauge,
    /// Tokens of prompts.
    pub(super) prompt_tokens: IntCounter,
    /// Tokens generated.
    pub(super) generated_tokens: IntCounter,
    /// Texts that ended because their client had left.
    pub(super) abandoned: IntCounter,
    /// Panics and failed steps of the engine.
    pub(super) engine_failures: IntCounter,
    /// From the acceptance of a text to its first token.
    pub(super) time_to_first_token: Histogram,
    /// From the first token of a text to its end.
    pub(super) tokens_per_second: Histogram,
}

impl Metrics {
    /// Creates them, all 0.
    pub(super) fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| -> prometheus::Result<IntCounter> {
            let counter = IntCounter::new(format!("lambda_dpo_{name}"), help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let gauge = |name: &str, help: &str| -> prometheus::Result<IntGauge> {
            let gauge = IntGauge::new(format!("lambda_dpo_{name}"), help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let histogram = |name: &str, help: &str, buckets: &[f64]| -> prometheus::Result<Histogram> {
            let options = HistogramOpts::new(format!("lambda_dpo_{name}"), help).buckets(buckets.to_vec());
            let histogram = Histogram::with_opts(options)?;
            registry.register(Box::new(histogram.clone()))?;
            Ok(histogram)
        };
        let requests = IntCounterVec::new(
            Opts::new("lambda_dpo_requests_total", "Requests by route and HTTP status; 499 if the client left first"),
            &["route", "status"],
        )?;
        registry.register(Box::new(requests.clone()))?;
        Ok(Self {
            requests,
            queue_length: gauge("queue_length", "Texts that wait for their first step")?,
            batch_size: gauge("batch_size", "Texts that are generated together now")?,
            prompt_tokens: counter("prompt_tokens_total", "Tokens of the prompts of accepted texts")?,
            generated_tokens: counter("tokens_generated_total", "Tokens generated; its rate is the tokens per second")?,
            abandoned: counter("texts_abandoned_total", "Texts that ended because their client had left")?,
            engine_failures: counter("engine_failures_total", "Panics and failed steps of the engine")?,
            time_to_first_token: histogram(
                "time_to_first_token_seconds",
                "From the acceptance of a text to its first token",
                &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0],
            )?,
            tokens_per_second: histogram(
                "text_tokens_per_second",
                "Tokens per second of a text, from its first token to its last",
                &[1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0],
            )?,
            registry,
        })
    }

    /// Returns the text, when `num_texts` are in the server.
    pub(super) fn text(&self, num_texts: usize) -> prometheus::Result<Vec<u8>> {
        let num_texts = i64::try_from(num_texts).unwrap_or(i64::MAX);
        self.queue_length.set((num_texts - self.batch_size.get()).max(0));
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}
