//! Reserving and settling through a gate: exact over several gates, once for each id, and given back in every case.

use super::server::Server;
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gates_together_admit_exactly_what_a_limit_says() {
    let server = Server::start();
    let (one, other) = (Gate::sound(&server.url()).await, Gate::sound(&server.url()).await);
    for charge in [per_minute(5), per_month(5)] {
        let (first, second) = tokio::join!(one.admitted(charge, 20), other.admitted(charge, 20));
        assert_eq!(first + second, 5);
    }
    let mut held = Vec::new();
    for gate in [&one, &other, &one, &other] {
        held.extend(gate.reserve(at_once(3)).await.ok());
    }
    assert_eq!(held.len(), 3);
    let Err(NotReserved::Refused(Refused::Exceeded(exceeded))) = other.reserve(at_once(3)).await else {
        panic!("a fourth call runs");
    };
    assert_eq!(exceeded.wait, Wait::UntilACallEnds);
    drop(held.pop());
    one.until_totals(|totals| totals.ended + other.quota.totals().ended == 5 + 5 + 1).await;
    assert!(other.reserve(at_once(3)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_charged_all_or_nothing_and_the_longest_wait_binds() {
    let server = Server::start();
    let gate = Gate::sound(&server.url()).await;
    let charges = [per_minute(3), per_month(1), at_once(9)];
    let mut reservation = gate.quota.reserve(&charges, ONE).await.unwrap();
    let remaining: Vec<_> = reservation.tells_standings().iter().map(|standing| standing.remaining).collect();
    assert_eq!(remaining, [2, 0, 8]);
    let Err(NotReserved::Refused(Refused::Exceeded(exceeded))) = gate.quota.reserve(&charges, ONE).await else {
        panic!("a spent month admits");
    };
    let Exceeded { limit, wait, standings, .. } = *exceeded;
    assert_eq!((&*limit, standings[0].remaining), ("month", 2));
    assert!(matches!(wait, Wait::Micros(wait) if Some(wait) == standings[1].reset_after_us));
    let days = standings[1].window_us.unwrap() / 86_400_000_000;
    assert!((28..=31).contains(&days), "{days}");
    assert!(matches!(gate.reserve(per_minute(0)).await, Err(NotReserved::Refused(Refused::Exceeded(_)))));
    let twice = gate.quota.reserve(&[at_once(1), at_once(2)], ONE).await;
    assert!(matches!(twice, Err(NotReserved::Refused(Refused::Repeated { .. }))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_reserved_by_estimate_and_settled_by_use() {
    let server = Server::start();
    let gate = Gate::sound(&server.url()).await;
    let expected = Tokens { input: 30, output: 10 };
    let free = async || match gate.quota.reserve(&[tokens_per_minute(100)], Tokens::default()).await {
        Ok(mut reservation) => reservation.tells_standings()[0].remaining,
        Err(error) => panic!("{error}"),
    };
    for (outcome, left) in [
        (Outcome::Refund, 100),
        (Outcome::RequestOnly, 100),
        (Outcome::Used(Tokens { input: 30, output: 0 }), 70),
        (Outcome::Used(Tokens { input: 30, output: 15 }), 25),
    ] {
        let reservation = gate.quota.reserve(&[tokens_per_minute(100)], expected).await.unwrap();
        reservation.settle(outcome);
        gate.until_totals(|totals| totals.waiting == 0).await;
        assert_eq!(free().await, left);
        gate.until_totals(|totals| totals.waiting == 0).await;
    }
    let refused = gate.quota.reserve(&[tokens_per_minute(100)], expected).await;
    assert!(matches!(refused, Err(NotReserved::Refused(Refused::Exceeded(_)))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reservation_has_its_place_in_the_queue_from_the_start() {
    let server = Server::start();
    let gate = Gate::sound_with(&server.url(), |settings| settings.most_open = 2).await;
    let held = [gate.reserve(per_minute(9)).await.unwrap(), gate.reserve(per_minute(9)).await.unwrap()];
    assert_eq!(gate.reserve(per_minute(9)).await.unwrap_err(), Unavailable::Backlog.into());
    drop(held);
    gate.until_totals(|totals| totals.waiting == 0 && totals.ended == 2).await;
    // Refused calls hold no place.
    for _ in 0..5 {
        assert!(matches!(gate.reserve(per_minute(0)).await, Err(NotReserved::Refused(Refused::Exceeded(_)))));
    }
    assert_eq!(gate.admitted(per_minute(9), 2).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_renewed_while_its_gate_lives_and_ends_after_it() {
    let server = Server::start();
    let short = |settings: &mut SharedSettings| {
        settings.lease = Duration::from_millis(300);
        settings.deadline = Duration::from_secs(2);
    };
    let (mut one, other) = (Gate::sound_with(&server.url(), short).await, Gate::sound(&server.url()).await);
    let held = one.reserve(at_once(1)).await.unwrap();
    let clock = Clock::system();
    while clock.monotonic_ms() < 900 {
        assert!(matches!(other.reserve(at_once(1)).await, Err(NotReserved::Refused(Refused::Exceeded(_)))));
    }
    // The gate is gone without a word.
    one.tasks.shutdown().await;
    let mut tries = tokio::time::interval(Duration::from_millis(5));
    let admitted = async {
        while other.reserve(at_once(1)).await.is_err() {
            tries.tick().await;
        }
    };
    timeout(AT_MOST, admitted).await.expect("the lease ends");
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_delivers_what_is_left_and_takes_the_gate_off_the_list() {
    let server = Server::start();
    let (one, other) = (Gate::sound(&server.url()).await, Gate::sound(&server.url()).await);
    let members = || redis::from_redis_value::<i64>(server.run(&["ZCARD", "tollgate:{limits}:replicas"])).unwrap();
    assert_eq!(members(), 2);
    assert_eq!(other.quota.replicas(), NonZeroU32::new(2));
    let held = one.reserve(at_once(1)).await.unwrap();
    held.settle(Outcome::RequestOnly);
    one.stop().await;
    assert_eq!(members(), 1);
    assert!(other.reserve(at_once(1)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_in_redis_names_a_partition_and_everything_expires() {
    let server = Server::start();
    let gate = Gate::sound(&server.url()).await;
    let bucket =
        Rule::Metered { amount: Amount::Requests(1), shape: Shape::Bucket { burst: 9, refill: 1, every_ms: 1_000 } };
    let charges = [per_minute(9), per_month(9), at_once(9), Charge { rule: bucket, ..per_minute(9) }];
    let held = gate.quota.reserve(&charges, ONE).await.unwrap();
    let keys = server.keys("*");
    assert_eq!(keys.len(), charges.len() + 3, "{keys:?}");
    for key in keys {
        assert!(key.starts_with("tollgate:{limits}:") && !key.contains("somebody"), "{key}");
        let left_ms: i64 = redis::from_redis_value(server.run(&["PTTL", &key])).unwrap();
        assert!(left_ms >= 15_000, "{key} {left_ms}");
    }
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gates_whose_clocks_are_five_minutes_apart_count_by_the_time_of_redis() {
    let server = Server::start();
    let now_ms = Clock::system().unix_ms();
    let mut gates = Vec::new();
    for off_ms in [0, 300_000] {
        let mut settings = SharedSettings::new(Address::parse(&server.url(), None).unwrap());
        settings.deadline = Duration::from_secs(2);
        let (clock, _hand) = Clock::manual(now_ms - 150_000 + off_ms);
        let unwritten = Arc::<Unwritten>::default();
        let budgets = Budgets { unwritten: Arc::clone(&unwritten), written: None };
        let gate = Gate::start_by(settings, clock, budgets);
        gate.until(|condition| *condition == Condition::Sound).await;
        gates.push((gate, unwritten));
    }
    let hour = Shape::Calendar { capacity: 5, period: Period::Hour };
    let hour = Rule::Metered { amount: Amount::Requests(1), shape: hour };
    let charges = [per_minute(5), per_month(5), Charge { rule: hour, ..per_month(5) }];
    let server_hour = || {
        let time: Vec<u64> = redis::from_redis_value(server.run(&["TIME"])).unwrap();
        time[0] / 3_600
    };
    let (began, mut admitted, mut resets) = (server_hour(), 0, Vec::new());
    for _ in 0..20 {
        for (gate, _) in &gates {
            match gate.quota.reserve(&charges, ONE).await {
                Ok(mut reservation) => {
                    resets.push(reservation.tells_standings()[1].reset_after_us.unwrap());
                    reservation.settle(Outcome::Used(ONE));
                    admitted += 1;
                }
                Err(NotReserved::Refused(Refused::Exceeded(_))) => {}
                Err(other) => panic!("{other}"),
            }
        }
    }
    assert_eq!(admitted, 5);
    assert!(resets.is_sorted_by(|one, next| one >= next), "{resets:?}");
    let mut ends: Vec<u64> = gates
        .iter()
        .flat_map(|(_, unwritten)| unwritten.take(0, 9))
        .filter(|change| *change.name.period == *"hour")
        .map(|change| change.period_end_us / 3_600_000_000)
        .collect();
    ends.dedup();
    // Unless the hour ended meanwhile.
    assert!(ends == [began + 1] || server_hour() > began, "{ends:?}");
}
