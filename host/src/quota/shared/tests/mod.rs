//! Shared limits against a real redis-server, started for each test on a free port of its own.

mod arithmetic;
mod failover;
mod loss;
mod memory;
mod outage;
mod reaching;
mod reference;
mod reserving;
mod server;
mod together;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;
use crate::policy::{Amount, Period, Shape, TokenKind};
use crate::quota::{Exceeded, Moment, Outcome, Wait};

/// Longer than anything here may take.
const AT_MOST: Duration = Duration::from_secs(20);
const ONE: Tokens = Tokens { input: 1, output: 0 };

/// A gate that shares limits.
struct Gate {
    quota: Arc<SharedQuota>,
    tasks: JoinSet<()>,
    stop: oneshot::Sender<()>,
}

impl Gate {
    /// Started, and not waited for.
    fn start(url: &str, adjust: impl FnOnce(&mut SharedSettings)) -> Self {
        let mut settings = SharedSettings::new(Address::parse(url, None).unwrap());
        adjust(&mut settings);
        Self::start_by(settings, Clock::system(), Budgets::default())
    }

    fn start_by(settings: SharedSettings, clock: Clock, budgets: Budgets) -> Self {
        let (quota, keeper) = SharedQuota::new(settings, clock, budgets).unwrap();
        let (stop, stopped) = oneshot::channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(keeper.run(async {
            stopped.await.ok();
        }));
        Self { quota, tasks, stop }
    }

    /// Started, with a connection. The deadline is a long one: it isn't what most tests are about.
    async fn sound(url: &str) -> Self {
        Self::sound_with(url, |settings| settings.deadline = Duration::from_secs(2)).await
    }

    async fn sound_with(url: &str, adjust: impl FnOnce(&mut SharedSettings)) -> Self {
        let gate = Self::start(url, adjust);
        gate.until(|condition| *condition == Condition::Sound).await;
        gate
    }

    async fn until(&self, holds: impl FnMut(&Condition) -> bool) -> Condition {
        let mut condition = self.quota.condition();
        let found = timeout(AT_MOST, condition.wait_for(holds)).await;
        found.expect("the condition came in time").unwrap().clone()
    }

    async fn until_degraded(&self) -> Arc<str> {
        let condition = self.until(|condition| matches!(condition, Condition::Degraded { .. })).await;
        let Condition::Degraded { cause, .. } = condition else { unreachable!("waited for it") };
        cause
    }

    /// Waits until the totals are so.
    async fn until_totals(&self, holds: impl Fn(SharedTotals) -> bool) {
        let mut ticks = tokio::time::interval(Duration::from_millis(2));
        let waiting = async {
            while !holds(self.quota.totals()) {
                ticks.tick().await;
            }
        };
        timeout(AT_MOST, waiting).await.unwrap_or_else(|_| panic!("{:?}", self.quota.totals()));
    }

    async fn reserve(&self, charge: Charge<'_>) -> Result<SharedReservation, NotReserved> {
        self.quota.reserve(&[charge], ONE).await
    }

    /// How many of so many calls are admitted; they end by using one token.
    async fn admitted(&self, charge: Charge<'_>, calls: usize) -> usize {
        let mut admitted = 0;
        for _ in 0..calls {
            match self.reserve(charge).await {
                Ok(reservation) => {
                    reservation.settle(Outcome::Used(ONE));
                    admitted += 1;
                }
                Err(NotReserved::Refused(Refused::Exceeded(_))) => {}
                Err(other) => panic!("{other}"),
            }
        }
        admitted
    }

    /// Stops as the app does, and waits until all is delivered.
    async fn stop(mut self) {
        self.stop.send(()).unwrap();
        timeout(AT_MOST, self.tasks.join_next()).await.expect("it ends").unwrap().unwrap();
    }
}

fn per_minute(capacity: u64) -> Charge<'static> {
    window(capacity, Amount::Requests(1))
}

fn tokens_per_minute(capacity: u64) -> Charge<'static> {
    window(capacity, Amount::Tokens { kind: TokenKind::All, weight_permille: 1_000 })
}

fn window(capacity: u64, amount: Amount) -> Charge<'static> {
    let rule = Rule::Metered { amount, shape: Shape::Window { capacity, length_ms: 60_000 } };
    Charge { policy: "rate-limit", limit: "minute", partition: "somebody", rule }
}

fn at_once(most: u32) -> Charge<'static> {
    Charge { policy: "rate-limit", limit: "calls", partition: "somebody", rule: Rule::Concurrent(most) }
}

fn per_month(capacity: u64) -> Charge<'static> {
    let shape = Shape::Calendar { capacity, period: Period::Month };
    let rule = Rule::Metered { amount: Amount::Requests(1), shape };
    Charge { policy: "rate-limit", limit: "month", partition: "somebody", rule }
}

fn tokens_per_month(capacity: u64) -> Charge<'static> {
    let shape = Shape::Calendar { capacity, period: Period::Month };
    let rule = Rule::Metered { amount: Amount::Tokens { kind: TokenKind::All, weight_permille: 1_000 }, shape };
    Charge { limit: "tokens", rule, ..per_month(capacity) }
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let refused = |adjust: fn(&mut SharedSettings)| {
        let mut settings = SharedSettings::new(Address::parse("redis://127.0.0.1", None).unwrap());
        adjust(&mut settings);
        SharedQuota::new(settings, Clock::system(), Budgets::default()).err()
    };
    assert_eq!(refused(|_| ()), None);
    assert_eq!(refused(|settings| settings.tag = "a}b".to_owned()), Some(SettingsError::Tag));
    assert_eq!(refused(|settings| settings.tag = String::new()), Some(SettingsError::Tag));
    assert_eq!(refused(|settings| settings.deadline = Duration::ZERO), Some(SettingsError::TooSmall("deadline")));
    assert_eq!(refused(|settings| settings.open = settings.lease), Some(SettingsError::TooSmall("open")));
    assert_eq!(refused(|settings| settings.most_open = 0), Some(SettingsError::TooSmall("most_open")));
}
