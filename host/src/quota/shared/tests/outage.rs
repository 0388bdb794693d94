//! Redis slow, gone, empty, forgetful, read-only or broken: no call waits, nothing is admitted twice, nothing is lost.

use super::server::{Server, Stub};
use super::*;
use crate::quota::{Expected, NotHeld, Quota};

/// As many calls as it takes until Redis isn't asked any more; how long the slowest took.
async fn call_until_open(gate: &Gate, charge: Charge<'_>) -> Duration {
    let clock = Clock::system();
    let mut slowest = Duration::ZERO;
    loop {
        let began = clock.monotonic();
        let reserved = gate.reserve(charge).await;
        slowest = slowest.max(clock.monotonic().saturating_sub(began));
        match reserved {
            Err(NotReserved::Unavailable(Unavailable::Open)) => return slowest,
            Err(NotReserved::Unavailable(_)) => {}
            other => panic!("{other:?}"),
        }
        assert!(clock.monotonic() < AT_MOST);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_redis_costs_its_deadline_until_it_is_left_alone_and_reserves_nothing_behind_our_back() {
    let server = Server::start();
    let gate = Gate::sound_with(&server.url(), |_| ()).await;
    server.pause();
    let clock = Clock::system();
    let slowest = call_until_open(&gate, per_minute(5)).await;
    let opened_after = clock.monotonic();
    let before = clock.monotonic();
    for _ in 0..1_000 {
        assert_eq!(gate.reserve(per_minute(5)).await.unwrap_err(), Unavailable::Open.into());
    }
    let thousand = clock.monotonic().saturating_sub(before);
    assert!(slowest < Duration::from_millis(60), "{slowest:?}");
    assert!(opened_after < Duration::from_secs(1), "{opened_after:?}");
    assert!(thousand < Duration::from_millis(100), "{thousand:?}");
    let late = gate.quota.totals().late;
    assert!(late >= 1);
    assert!(gate.until_degraded().await.contains("25 ms"));
    server.resume();
    gate.until(|condition| *condition == Condition::Sound).await;
    gate.until_totals(|totals| totals.waiting == 0 && totals.ended == late && totals.cancelled == late).await;
    assert!(gate.quota.totals().degraded_ms > 0);
    assert_eq!(gate.admitted(per_minute(5), 9).await, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_leaves_while_it_waits_reserves_nothing() {
    let server = Server::start();
    let gate = Gate::sound(&server.url()).await;
    server.pause();
    let left = timeout(Duration::from_millis(10), gate.reserve(per_minute(1))).await;
    assert!(left.is_err());
    server.resume();
    gate.until_totals(|totals| totals.ended == 1).await;
    assert_eq!(gate.admitted(per_minute(1), 2).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settlements_wait_for_redis_and_local_spending_is_told_as_debt() {
    let server = Server::start();
    let gate = Gate::sound_with(&server.url(), |_| ()).await;
    let held = gate.quota.reserve(&[tokens_per_minute(10), at_once(1)], Tokens { input: 6, output: 0 }).await.unwrap();
    server.pause();
    call_until_open(&gate, per_month(9)).await;
    held.settle(Outcome::Used(Tokens { input: 2, output: 0 }));
    for _ in 0..3 {
        gate.quota.spends_locally(&[per_month(5), at_once(1)], ONE, true).unwrap().settle(Outcome::Used(ONE));
    }
    let used = Outcome::Used(Tokens { input: 1, output: 2 });
    gate.quota.spends_locally(&[tokens_per_minute(10)], ONE, true).unwrap().settle(used);
    drop(gate.quota.spends_locally(&[tokens_per_minute(10)], ONE, true));
    assert_eq!(gate.quota.totals().owing, 2);
    assert_eq!(gate.quota.fall_back([Rule::Concurrent(3)]), Fallback::Share(vec![Rule::Concurrent(3)]));
    server.resume();
    gate.until(|condition| *condition == Condition::Sound).await;
    gate.until_totals(|totals| totals.waiting == 0 && totals.owed == 2 && totals.owing == 0).await;
    assert_eq!(gate.admitted(per_month(5), 9).await, 2);
    assert_eq!(gate.admitted(tokens_per_minute(10), 9).await, 10 - 2 - 3);
    assert!(gate.reserve(at_once(1)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_redis_was_not_asked_about_is_told_at_once_while_redis_works() {
    let server = Server::start();
    let (gate, other) = (Gate::sound(&server.url()).await, Gate::sound(&server.url()).await);
    let held = gate.quota.spends_locally(&[at_once(1)], ONE, true).unwrap();
    let counted = async |units: u64| {
        let mut ticks = tokio::time::interval(Duration::from_millis(2));
        while other.quota.look(&[at_once(1)]).await.unwrap().iter().any(|(_, used)| *used != units) {
            ticks.tick().await;
        }
    };
    // The next renewals are ten seconds away.
    timeout(Duration::from_secs(5), counted(1)).await.expect("Redis hears of it at once");
    held.settle(Outcome::RequestOnly);
    timeout(Duration::from_secs(5), counted(0)).await.expect("and of its end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_was_killed_and_came_back_empty_counts_anew() {
    let mut server = Server::start();
    let gate = Gate::sound(&server.url()).await;
    assert_eq!(gate.admitted(per_minute(5), 4).await, 4);
    let held = gate.reserve(at_once(1)).await.unwrap();
    let port = server.port;
    server.kill();
    gate.until_degraded().await;
    assert_eq!(gate.reserve(per_minute(5)).await.unwrap_err(), Unavailable::Open.into());
    let _empty = Server::start_on(port, &[]);
    gate.until(|condition| *condition == Condition::Sound).await;
    assert_eq!(gate.admitted(per_minute(5), 9).await, 5);
    assert_eq!(gate.admitted(at_once(1), 1).await, 0, "the call that runs has kept its place");
    held.settle(Outcome::Used(ONE));
    gate.until_totals(|totals| totals.waiting == 0).await;
    assert_eq!(gate.admitted(at_once(1), 1).await, 1);
    gate.until_totals(|totals| totals.waiting == 0 && totals.lost == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_was_admitted_without_redis_counts_there_once_it_is_back() {
    let server = Server::start();
    let gate = Gate::sound_with(&server.url(), |_| ()).await;
    server.pause();
    call_until_open(&gate, per_month(9)).await;
    let over_before = gate.quota.spends_locally(&[at_once(2)], ONE, true).unwrap();
    let running = gate.quota.spends_locally(&[at_once(2)], ONE, true).unwrap();
    over_before.settle(Outcome::Used(ONE));
    server.resume();
    gate.until(|condition| *condition == Condition::Sound).await;
    let beside = gate.reserve(at_once(2)).await.unwrap();
    assert_eq!(gate.admitted(at_once(2), 1).await, 0);
    running.settle(Outcome::Used(ONE));
    gate.until_totals(|totals| totals.waiting == 1).await;
    assert_eq!(gate.admitted(at_once(2), 1).await, 1);
    drop(beside);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_debt_is_told_whatever_numbers_reservations_have() {
    let server = Server::start();
    let gate = Gate::sound(&server.url()).await;
    // Reservations 0 to d1, in hexadecimal.
    assert_eq!(gate.admitted(per_minute(1_000), 0xd2).await, 0xd2);
    gate.quota.spends_locally(&[per_month(9)], ONE, true).unwrap().settle(Outcome::Used(ONE));
    gate.until_totals(|totals| totals.owed == 1).await;
    assert_eq!(gate.admitted(per_month(9), 9).await, 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_spent_without_redis_is_told_before_a_gate_ends() {
    let server = Server::start();
    let gate = Gate::sound(&server.url()).await;
    for place in 0..200 {
        let partition = format!("{place}");
        let charge = Charge { partition: &partition, ..per_month(9) };
        gate.quota.spends_locally(&[charge], ONE, true).unwrap().settle(Outcome::Used(ONE));
    }
    gate.stop().await;
    let next = Gate::sound(&server.url()).await;
    assert_eq!(next.admitted(Charge { partition: "199", ..per_month(9) }, 9).await, 8);
    assert_eq!(next.admitted(Charge { partition: "0", ..per_month(9) }, 9).await, 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_script_is_sent_again() {
    let server = Server::start();
    let gate = Gate::sound(&server.url()).await;
    server.run(&["SCRIPT", "FLUSH"]);
    let held = gate.reserve(at_once(1)).await.unwrap();
    server.run(&["SCRIPT", "FLUSH"]);
    held.settle(Outcome::RequestOnly);
    gate.until_totals(|totals| totals.ended == 1).await;
    assert!(gate.reserve(at_once(1)).await.is_ok());
    assert_eq!(*gate.quota.condition().borrow(), Condition::Sound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_server_is_no_place_for_limits() {
    let primary = Server::start();
    let replica = Server::start_with(&["--replicaof", "127.0.0.1", &primary.port.to_string()]);
    let lost = Gate::start(&replica.url(), |_| ());
    assert!(lost.until_degraded().await.contains("read only"));
    let gate = Gate::sound(&primary.url()).await;
    primary.run(&["REPLICAOF", "127.0.0.1", "1"]);
    let error = gate.reserve(per_minute(5)).await.unwrap_err();
    assert!(matches!(error, NotReserved::Unavailable(_)), "{error}");
    assert!(gate.until_degraded().await.to_lowercase().contains("read"));
    primary.run(&["REPLICAOF", "NO", "ONE"]);
    gate.until(|condition| *condition == Condition::Sound).await;
    assert_eq!(gate.admitted(per_minute(5), 9).await, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_holds_something_else_fails_its_own_charge_only() {
    let server = Server::start();
    let gate = Gate::sound(&server.url()).await;
    for charge in [per_minute(9), per_month(9), at_once(9)] {
        let held = gate.reserve(charge).await.unwrap();
        let key = server.keys("*:c:*").pop().unwrap();
        for foreign in [&["RPUSH", &key, "x"][..], &["SET", &key, "5"], &["SET", &key, "no list at all"]] {
            server.run(&["DEL", &key]);
            server.run(foreign);
            let error = gate.quota.reserve(&[tokens_per_minute(9), charge], ONE).await.unwrap_err();
            let NotReserved::Unavailable(Unavailable::Error(text)) = error else { panic!("{error}") };
            assert!(text.contains("charge 2") && text.contains("delete it"), "{text}");
            assert_eq!(gate.admitted(tokens_per_minute(100), 1).await, 1);
        }
        held.settle(Outcome::Refund);
        gate.until_totals(|totals| totals.waiting == 0).await;
        for key in server.keys("*:c:*") {
            server.run(&["DEL", &key]);
        }
    }
    assert_eq!((gate.quota.totals().lost, gate.quota.totals().degraded_ms), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_redis_counts_nothing_and_nothing_is_lost() {
    let server = Server::start_with(&["--maxmemory-policy", "noeviction"]);
    let gate = Gate::sound(&server.url()).await;
    let held = gate.reserve(at_once(1)).await.unwrap();
    server.run(&["CONFIG", "SET", "maxmemory", "1"]);
    let error = gate.reserve(per_minute(5)).await.unwrap_err();
    assert!(matches!(&error, NotReserved::Unavailable(Unavailable::Error(text)) if text.contains("OOM")), "{error}");
    held.settle(Outcome::RequestOnly);
    assert!(gate.until_degraded().await.contains("OOM"));
    server.run(&["CONFIG", "SET", "maxmemory", "0"]);
    gate.until(|condition| *condition == Condition::Sound).await;
    gate.until_totals(|totals| totals.waiting == 0).await;
    assert!(gate.reserve(at_once(1)).await.is_ok());
    assert_eq!(gate.admitted(per_minute(5), 9).await, 5);
    assert_eq!(gate.quota.totals().lost, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_half_replies_and_strange_answers_admit_nobody() {
    let stub = Stub::start(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let gate = Gate::sound_with(&stub.url, |_| ()).await;
    for answer in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"*5\r\n:1\r\n:1\r",
        b"*1\r\n:1\r\n",
        b"*7\r\n:1\r\n:1\r\n:0\r\n:1\r\n:-5\r\n:0\r\n:0\r\n",
        b"$2\r\nOK\r\n",
        b"*-1\r\n",
        b"-ERR something is wrong\r\n",
        b"*99999999999999999999\r\n",
    ] {
        *stub.answer.lock().unwrap() = answer;
        gate.until(|condition| *condition == Condition::Sound).await;
        let reserved = gate.reserve(per_minute(5)).await;
        assert!(matches!(reserved, Err(NotReserved::Unavailable(_))), "{reserved:?} by {}", answer.escape_ascii());
    }
    let nobody = Gate::start("redis://127.0.0.1:1", |_| ());
    nobody.until_degraded().await;
    assert_eq!(nobody.quota.replicas(), None);
    assert_eq!(nobody.quota.fall_back([]), Fallback::Refuse(WhyClosed::ReplicasUnknown));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_fails_again_and_again_is_tried_ever_more_seldom() {
    let stub = Stub::start(b"no reply at all\r\n").await;
    let gate = Gate::sound_with(&stub.url, |_| ()).await;
    let clock = Clock::system();
    for _ in 0..4 {
        gate.until(|condition| *condition == Condition::Sound).await;
        // The gate's own look at the server may have failed first: this call isn't asked then.
        let reserved = gate.reserve(per_minute(5)).await;
        assert!(matches!(reserved, Err(NotReserved::Unavailable(_))), "{reserved:?}");
        gate.until_degraded().await;
    }
    gate.until(|condition| *condition == Condition::Sound).await;
    assert!(clock.monotonic() >= Duration::from_millis(50 + 100 + 200 + 400), "{:?}", clock.monotonic());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_spending_that_redis_refuses_again_and_again_is_counted_as_untold() {
    let stub = Stub::start(b"-ERR something is wrong\r\n").await;
    let gate = Gate::sound_with(&stub.url, |_| ()).await;
    for untold in 1..=2 {
        gate.quota.spends_locally(&[per_minute(9)], ONE, true).unwrap().settle(Outcome::Used(ONE));
        gate.until_totals(|totals| totals.untold == untold && totals.owing == 0 && totals.owed == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_is_away_a_guess_fits_the_share_and_nothing_is_too_large_where_no_limit_holds() {
    let (memory, at) = (Arc::<Quota>::default(), Moment::now(&Clock::system()));
    let away = |mode: Mode| {
        let gate = Gate::start("redis://127.0.0.1:1", |settings| {
            (settings.mode, settings.replicas) = (mode, NonZeroU32::new(4));
        });
        (crate::quota::Limits::shared(Arc::clone(&memory), Arc::clone(&gate.quota)), gate)
    };
    let guess = |output| Expected { tokens: Tokens { input: 10, output }, is_guess: true };
    let cap = |output| Expected { is_guess: false, ..guess(output) };
    let (shares, _gate) = away(Mode::LocalShare);
    let charges = [tokens_per_minute(400)];
    let held = shares.reserve(at, "somebody", &charges, cap(256)).await;
    assert!(matches!(held, Err(NotHeld::Unavailable { closed: WhyClosed::NoShare(0), .. })), "{held:?}");
    let mut held = shares.reserve(at, "somebody", &charges, guess(256)).await.unwrap();
    assert_eq!(held.tells_standings().first().map(|standing| (standing.capacity, standing.remaining)), Some((100, 0)));
    let too_large = shares.reserve(at, "somebody", &charges, cap(4_000)).await;
    assert!(matches!(too_large, Err(NotHeld::Refused(Refused::Exceeded(_)))), "{too_large:?}");
    let (open, _gate) = away(Mode::Open);
    assert!(open.reserve(at, "somebody", &charges, cap(4_000)).await.is_ok());
    let (closed, _gate) = away(Mode::Closed);
    assert!(closed.reserve(at, "somebody", &charges, cap(4_000)).await.is_err());
}
