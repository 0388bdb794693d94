//! What a call will take, in tokens, before a model has run: learned from what calls to the same model took.
//!
//! The input is the estimate from the body's bytes, times how far such estimates were off for this model. The output is the
//! caller's cap, or for those who set none what nine of ten such calls stayed within. Asked on every call's path without a
//! lock; what is learned comes in one at a time, when a call is over.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;

/// Models of which something is kept; of more, the one goes that was not learned of for the longest time.
const MOST_MODELS: usize = 1024;

/// Output that is expected of a model before anything is known of it, in tokens: an answer of some two hundred words.
const FIRST_OUTPUT: u32 = 256;

/// Calls that this first guess weighs as much as.
const FIRST_WEIGHT: u32 = 32;

/// The correction of the input in thousandths of 1024: none, and its bounds, a quarter and four times.
const ONE: u32 = 1024;
const LEAST: u32 = ONE / 4;
const MOST: u32 = ONE * 4;

/// Inputs of fewer tokens, by their bytes, say nothing of longer ones.
const LEAST_TELLING: u32 = 64;

/// A new ratio counts one part in so many.
const SLOWNESS: i64 = 8;

/// Two buckets for each doubling: 1, 2, 3, 4, 6, 8, 12 … and the last for all above some 400,000.
const BUCKETS: usize = 38;

/// When so many calls are counted all counts are halved, so that what a model does now outweighs what it once did.
const MOST_COUNTED: u32 = 1024;

/// Tokens that a call is taken to need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Of the prompt; never 0.
    pub input: u32,
    /// Of the answer; never 0.
    pub output: u32,
}

/// What a call took, as its backend counted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Took {
    /// Of the prompt; none where its bytes say nothing of its tokens: images are no text.
    pub input: Option<u64>,
    /// Of the answer; none where it says nothing of what such calls write: a cap was set, or vectors were asked for.
    pub output: Option<u64>,
}

/// What is known of all models.
#[derive(Debug, Default)]
pub struct Estimates {
    models: ArcSwap<HashMap<Box<str>, Arc<Model>>>,
    lessons: AtomicU64,
}

#[derive(Debug)]
struct Model {
    /// In parts of [`ONE`].
    correction: AtomicU32,
    /// Of an answer without a cap.
    output: AtomicU32,
    outputs: Mutex<Outputs>,
    learned_at: AtomicU64,
}

/// How many answers were how long.
#[derive(Debug)]
struct Outputs {
    counts: [u32; BUCKETS],
    total: u32,
}

impl Estimates {
    /// What a call to this model is taken to need, by the estimate from its bytes and the caller's cap.
    pub fn expect(&self, model: &str, input_from_bytes: u32, cap: Option<u32>) -> Expected {
        let models = self.models.load();
        let model = models.get(model);
        let correction = model.map_or(ONE, |model| model.correction.load(Ordering::Relaxed));
        let input = u64::from(input_from_bytes) * u64::from(correction) / u64::from(ONE);
        let output = cap.unwrap_or_else(|| model.map_or(FIRST_OUTPUT, |model| model.output.load(Ordering::Relaxed)));
        Expected { input: u32::try_from(input).unwrap_or(u32::MAX).max(1), output: output.max(1) }
    }

    /// Learns from a call that is over and was counted. The model's name must be one that a backend knows.
    pub fn learn(&self, model: &str, input_from_bytes: u32, took: Took) {
        let known = self.models.load().get(model).map(Arc::clone);
        let model = known.unwrap_or_else(|| self.enter(model));
        model.learned_at.store(self.lessons.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        if let Some(input) = took.input {
            model.learn_input(input_from_bytes, input);
        }
        if let Some(output) = took.output {
            model.learn_output(output);
        }
    }

    /// Makes room for a model, and enters it.
    fn enter(&self, name: &str) -> Arc<Model> {
        let new = Arc::new(Model::default());
        self.models.rcu(|known| {
            let mut more = HashMap::clone(known);
            if more.len() >= MOST_MODELS && !more.contains_key(name) {
                let oldest = more.iter().min_by_key(|(_, model)| model.learned_at.load(Ordering::Relaxed));
                if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                    more.remove(&oldest);
                }
            }
            // Whoever enters it first has entered it for all.
            more.entry(name.into()).or_insert_with(|| Arc::clone(&new));
            more
        });
        self.models.load().get(name).map_or(new, Arc::clone)
    }
}

impl Default for Model {
    fn default() -> Self {
        Self {
            correction: AtomicU32::new(ONE),
            output: AtomicU32::new(FIRST_OUTPUT),
            outputs: Mutex::default(),
            learned_at: AtomicU64::new(u64::MAX),
        }
    }
}

impl Model {
    fn learn_input(&self, from_bytes: u32, counted: u64) {
        // A prompt that the backend had in memory already is counted as none: that says nothing of its length. Of a short one
        // most is what the model's template puts around it.
        if from_bytes < LEAST_TELLING || counted == 0 {
            return;
        }
        let ratio = counted.saturating_mul(u64::from(ONE)) / u64::from(from_bytes);
        let ratio = i64::from(u32::try_from(ratio).unwrap_or(u32::MAX).clamp(LEAST, MOST));
        let moved = |old: u32| {
            let old = i64::from(old);
            // Away from zero, so that it arrives.
            let step = (ratio - old).unsigned_abs().div_ceil(SLOWNESS.unsigned_abs());
            let step = i64::try_from(step).unwrap_or(i64::MAX);
            u32::try_from(if ratio < old { old - step } else { old + step }).ok()
        };
        let moved = self.correction.fetch_update(Ordering::Relaxed, Ordering::Relaxed, moved);
        debug_assert!(moved.is_ok(), "between two bounds every step has a number");
    }

    fn learn_output(&self, tokens: u64) {
        let mut outputs = self.outputs.lock().unwrap_or_else(PoisonError::into_inner);
        outputs.add(tokens);
        self.output.store(outputs.ninety_percent(), Ordering::Relaxed);
    }
}

impl Default for Outputs {
    fn default() -> Self {
        let mut outputs = Self { counts: [0; BUCKETS], total: FIRST_WEIGHT };
        if let Some(count) = outputs.counts.get_mut(bucket_of(FIRST_OUTPUT.into())) {
            *count = FIRST_WEIGHT;
        }
        outputs
    }
}

impl Outputs {
    fn add(&mut self, tokens: u64) {
        if let Some(count) = self.counts.get_mut(bucket_of(tokens)) {
            *count += 1;
            self.total += 1;
        }
        if self.total >= MOST_COUNTED {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.total = self.counts.iter().sum();
        }
    }

    /// The upper end of the bucket within which nine of ten answers lie.
    fn ninety_percent(&self) -> u32 {
        let wanted = (self.total * 9).div_ceil(10);
        let mut seen = 0;
        let within = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        within.map_or(FIRST_OUTPUT, upper_end)
    }
}

/// The largest number of tokens in a bucket.
fn upper_end(bucket: usize) -> u32 {
    let doublings = u32::try_from(bucket / 2).unwrap_or(u32::MAX);
    match bucket {
        0 => 1,
        _ if bucket % 2 == 1 => 1_u32.checked_shl(doublings + 1).unwrap_or(u32::MAX),
        _ => 3_u32.checked_shl(doublings - 1).unwrap_or(u32::MAX),
    }
}

fn bucket_of(tokens: u64) -> usize {
    let fits = |bucket: &usize| u64::from(upper_end(*bucket)) >= tokens;
    (0..BUCKETS).find(fits).unwrap_or(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: &str = "llama3:latest";

    fn expected(input: u32, output: u32) -> Expected {
        Expected { input, output }
    }

    fn took(input: impl Into<Option<u64>>, output: impl Into<Option<u64>>) -> Took {
        Took { input: input.into(), output: output.into() }
    }

    #[test]
    fn buckets_grow_by_halves_and_thirds() {
        let ends: Vec<u32> = (0..9).map(upper_end).collect();
        assert_eq!(ends, [1, 2, 3, 4, 6, 8, 12, 16, 24]);
        assert_eq!(upper_end(BUCKETS - 1), 524_288);
        for (tokens, end) in [(0, 1), (1, 1), (5, 6), (256, 256), (257, 384), (u64::MAX, 524_288)] {
            assert_eq!(upper_end(bucket_of(tokens)), end, "{tokens}");
        }
    }

    #[test]
    fn a_model_that_nobody_knows_gets_the_bytes_and_the_first_guess() {
        let estimates = Estimates::default();
        assert_eq!(estimates.expect(MODEL, 100, None), expected(100, FIRST_OUTPUT));
        assert_eq!(estimates.expect(MODEL, 0, Some(0)), expected(1, 1), "never nothing");
    }

    #[test]
    fn a_cap_stays_the_cap_whatever_was_learned() {
        let estimates = Estimates::default();
        (0..100).for_each(|_| estimates.learn(MODEL, 10, took(10, 50)));
        for cap in [1, 7, 1_000_000, u32::MAX] {
            assert_eq!(estimates.expect(MODEL, 10, Some(cap)).output, cap);
        }
    }

    #[test]
    fn the_input_s_correction_moves_by_an_eighth_and_stays_in_its_bounds() {
        let estimates = Estimates::default();
        estimates.learn(MODEL, 100, took(200, None));
        assert_eq!(estimates.expect(MODEL, 1000, None).input, 1125);
        (0..200).for_each(|_| estimates.learn(MODEL, 100, took(200, None)));
        assert_eq!(estimates.expect(MODEL, 1000, None).input, 2000);
        (0..200).for_each(|_| estimates.learn(MODEL, 100, took(1_000_000, None)));
        assert_eq!(estimates.expect(MODEL, 1000, None).input, 4000);
        (0..200).for_each(|_| estimates.learn(MODEL, 100, took(1, None)));
        assert_eq!(estimates.expect(MODEL, 1000, None).input, 250);
        estimates.learn(MODEL, 100, took(0, None));
        estimates.learn(MODEL, 0, took(100, None));
        estimates.learn(MODEL, 100, took(None, 50));
        assert_eq!(estimates.expect(MODEL, 1000, None).input, 250, "what says nothing changes nothing");
        assert_eq!(estimates.expect(MODEL, u32::MAX, None).input, u32::MAX / 4);
        assert_eq!(estimates.expect("other", 1000, None).input, 1000);
    }

    #[test]
    fn nine_of_ten_answers_stay_within_what_is_expected_and_the_old_are_forgotten() {
        let estimates = Estimates::default();
        for at in 0..1000 {
            estimates.learn(MODEL, 10, took(10, if at % 20 == 0 { 5000 } else { 40 }));
        }
        assert_eq!(estimates.expect(MODEL, 10, None).output, 48);
        (0..20_000).for_each(|_| estimates.learn(MODEL, 10, took(10, 3000)));
        assert_eq!(estimates.expect(MODEL, 10, None).output, 3072);
    }

    #[test]
    fn of_too_many_models_the_one_goes_that_was_learned_of_first() {
        let estimates = Estimates::default();
        for at in 0..=MOST_MODELS {
            // The first is learned of again and again, and stays.
            estimates.learn("first", 100, took(200, None));
            estimates.learn(&format!("m{at}"), 100, took(200, None));
        }
        assert_eq!(estimates.models.load().len(), MOST_MODELS);
        assert_ne!(estimates.expect("first", 1000, None).input, 1000);
        assert_eq!(estimates.expect("m0", 1000, None).input, 1000);
        assert_ne!(estimates.expect(&format!("m{MOST_MODELS}"), 1000, None).input, 1000);
    }
}
