//! A call is settled once, however it ends, and estimates learn from nothing but what was counted.

use std::{num::NonZeroUsize, thread};

use http::HeaderMap;
use tokio_util::task::TaskTracker;

use super::*;
use crate::{llm::usage::Usage, proxy::request_id::RequestIds};

fn settling() -> Arc<Settling> {
    let (metrics, clock) = (Arc::new(Metrics::default()), Clock::manual(0).0);
    let observers = Observers::new(NonZeroUsize::MIN, TaskTracker::new(), clock.clone(), Arc::clone(&metrics));
    Arc::new(Settling { metrics, clock, estimates: Arc::default(), observers, tells_decisions: false })
}

fn open(shared: &Arc<Settling>) -> Box<Settlement> {
    let mut settlement = Settlement::open(shared, &RequestIds::new().accept_or_make(&HeaderMap::new()));
    settlement.asks(Surface::Ollama, Operation::Chat);
    settlement
}

/// A call for which a model runs, on an input of 80 tokens by its bytes.
fn running(shared: &Arc<Settling>) -> Box<Settlement> {
    let mut settlement = open(shared);
    settlement.names_model("m");
    let expected = shared.estimates.expect("m", 80, None);
    settlement.expects(Estimate { from_bytes: 80, is_text: true, expected, is_open: true });
    settlement.departure.note(true);
    settlement.answers(StatusCode::OK);
    settlement
}

fn counted(input: u64, output: u64) -> Counted {
    Counted { usage: Usage { input: Some(input), output: Some(output) }, pieces: 3, bytes: 0, is_unread: false }
}

#[track_caller]
fn check_ended(shared: &Settling, class: &str, calls: u32) {
    let text = shared.metrics.render();
    let ended = format!("requests_total{{surface=\"ollama\",operation=\"chat\",status=\"{class}\"}} {calls}\n");
    assert!(text.contains(&ended) && text.contains("tollgate_requests_in_flight 0\n"), "{ended} in:\n{text}");
}

#[test]
fn only_the_first_end_counts() {
    let shared = settling();
    let mut settlement = running(&shared);
    settlement.settle(End::Complete);
    settlement.settle(End::Failed);
    drop(settlement);
    check_ended(&shared, "2xx", 1);
}

#[test]
fn a_panic_settles_what_it_holds_once() {
    let shared = settling();
    let held = running(&shared);
    let panicked = thread::spawn(move || {
        let mut held = held;
        held.counts(Counted { pieces: 3, ..Counted::default() });
        panic!("as a bug would");
    });
    assert!(panicked.join().is_err());
    check_ended(&shared, "2xx", 1);
    let text = shared.metrics.render();
    let tokens = "tokens_total{surface=\"ollama\",direction=\"output\",estimated=\"true\"} 3\n";
    assert!(text.contains(tokens), "{text}");
}

#[test]
fn it_learns_from_whole_answers_that_were_counted_and_from_no_others() {
    let shared = settling();
    let is_learned = || shared.estimates.expect("m", 80, None).input != 80;
    for end in [End::ClientLeft, End::Failed] {
        let mut settlement = running(&shared);
        settlement.counts(counted(160, 4));
        settlement.settle(end);
        assert!(!is_learned(), "{end:?}");
    }
    running(&shared).settle(End::Complete);
    assert!(!is_learned(), "nothing was counted");
    let mut settlement = running(&shared);
    settlement.counts(counted(160, 4));
    settlement.settle(End::Complete);
    assert!(is_learned());
}

#[test]
fn an_input_with_images_teaches_nothing_of_text() {
    let shared = settling();
    for is_text in [false, true] {
        let mut settlement = running(&shared);
        settlement.estimate.as_mut().expect("a model runs").is_text = is_text;
        settlement.counts(counted(160, 4));
        settlement.settle(End::Complete);
        assert_eq!(shared.estimates.expect("m", 80, None).input != 80, is_text);
    }
}

#[test]
fn an_input_that_nobody_counted_is_what_was_learned_of_the_model() {
    let shared = settling();
    for _ in 0..100 {
        let mut settlement = running(&shared);
        settlement.counts(counted(160, 4));
        settlement.settle(End::Complete);
    }
    let mut settlement = running(&shared);
    settlement.settle(End::ClientLeft);
    let text = shared.metrics.render();
    let tokens = "tokens_total{surface=\"ollama\",direction=\"input\",estimated=\"true\"} 160\n";
    assert!(text.contains(tokens), "{text}");
}
