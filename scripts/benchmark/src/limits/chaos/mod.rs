//! A load through two gates that share a Redis, while that fails in every way: what passes, what it costs, what comes back.
//!
//! What may be admitted beyond the limit is computed, not guessed: each gate's share while it counts by itself, and what a
//! server has forgotten that came back empty, or whose replica had not heard of it.

mod fault;
mod load;
mod row;

use std::time::{Duration, Instant};

use tokio::{task::block_in_place, time::sleep};

use self::{
    fault::{Fault, Stage},
    load::{Keys, Load, Looks},
    row::{Moments, Row},
};
use super::{
    Bench, Report,
    caller::until,
    gates::{Gates, SOON, Site},
};
use crate::{clock::now, failure::Failure};

const GATES: u32 = 2;

/// How long a row takes, and how much is called.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// Two calls each.
    every: Duration,
    /// How often the gates are asked how they are.
    look: Duration,
    /// Before the fault, with it, and after all is well.
    steady: Duration,
    fault: Duration,
    after: Duration,
    /// What the counted key may call in a minute: as much as comes before the fault.
    limit: u32,
}

const FULL: Plan = Plan {
    every: Duration::from_millis(5),
    look: Duration::from_millis(10),
    steady: Duration::from_secs(5),
    fault: Duration::from_secs(5),
    after: Duration::from_secs(3),
    limit: 1_000,
};

const SMOKE: Plan = Plan {
    every: Duration::from_millis(20),
    look: Duration::from_millis(50),
    steady: Duration::from_secs(2),
    fault: Duration::from_secs(3),
    after: Duration::from_secs(1),
    limit: 100,
};

pub(super) async fn look(bench: &Bench) -> Result<Report, Failure> {
    let (plan, faults) = if bench.is_smoke { (SMOKE, &Fault::SMOKE[..]) } else { (FULL, &Fault::ALL[..]) };
    let site = Site::new(bench.folder.join("chaos"), &bench.program)?;
    let mut report = Report::default();
    report.say("### Redis fails\n");
    report.say(row::HEAD);
    for fault in faults {
        let row = one(bench, &site, *fault, plan).await?;
        report.say(&row.line());
        row.judge(bench.is_smoke, &mut report);
    }
    report.say(&explained(plan));
    Ok(report)
}

fn explained(plan: Plan) -> String {
    format!(
        "\n{GATES} gates with one Redis, `local-share`; {} calls a second, half of them of a key with {} requests a minute (served, \
         refused, overshoot), half of one that is never refused (times). *Overshoot* is what was admitted beyond the limit, and what may \
         be: each gate's share of the limit ({} each) if a gate had to count by itself, and what Redis forgot (all, where it came \
         back empty; the last second, where a replica took over). Times are in ms. *Met* are calls that ran between the fault and the \
         moment when both gates said `degraded`, or, where they never did, a second; *while degraded* those from then on. \
         *Back* counts from when Redis was there again, or from the fault where nobody had to help.",
        2_000 / plan.every.as_millis().max(1),
        plan.limit,
        plan.limit / GATES,
    )
}

async fn one(bench: &Bench, site: &Site, fault: Fault, plan: Plan) -> Result<Row, Failure> {
    let folder = site.folder.join(format!("{fault:?}"));
    std::fs::create_dir_all(&folder)?;
    let stage = Stage::set(fault, &folder).await?;
    // The window of one row is not to be the next one's: each has keys and counters of its own.
    let redis = format!("url = \"{}\"\nreplicas = {GATES}\n", stage.url());
    site.configure(bench.backend.address, Some(&redis))?;
    let keys = Keys {
        counted: site.key(&format!("{fault:?}-counted"), &["--rpm", &plan.limit.to_string()])?,
        free: site.key(&format!("{fault:?}-free"), &["--rpm", "10M"])?,
    };
    let gates = site.start(usize::try_from(GATES).unwrap_or(1), &bench.caller).await?;
    // Connections and learning are not what is measured.
    let warm_up =
        Load::start(&bench.caller, gates.addresses(), Keys { counted: keys.free.clone(), ..keys.clone() }, plan.every);
    sleep(plan.after).await;
    warm_up.ends().await?;
    let load = Load::start(&bench.caller, gates.addresses(), keys, plan.every);
    // Redis has yet to hear how the last calls end.
    let (moments, _stage) = pass(&gates, stage, fault, plan).await?;
    let (seen, first_error) = load.ends().await?;
    gates.until_idle().await?;
    Ok(Row {
        fault,
        limit: plan.limit,
        shares: plan.limit / GATES * GATES,
        seen,
        first_error,
        moments,
        unavailable: gates.counted_alone().await?,
        forgotten_units: gates.sum("tollgate_redis_forgotten_units_total").await?,
        lost: gates.sum("tollgate_redis_lost_total").await?,
    })
}

/// Lets it happen, and be over; the Redis that is there then.
async fn pass(gates: &Gates, stage: Stage, fault: Fault, plan: Plan) -> Result<(Moments, Stage), Failure> {
    sleep(plan.steady).await;
    let mut looks = Looks::default();
    let struck = now();
    let stage = block_in_place(|| stage.strike(fault))?;
    let gone = now();
    looking(gates, &mut looks, plan, struck + plan.fault).await?;
    let (healed, stage) = if fault.lasts() {
        let stage = block_in_place(|| stage.heal(fault))?;
        (now(), stage)
    } else {
        (struck, stage)
    };
    let mut back = None;
    until("limits are shared again", SOON, async || {
        looks.look(gates).await?;
        back = looks.shared_since;
        Ok(back.is_some())
    })
    .await?;
    sleep(plan.after).await;
    Ok((Moments { struck, gone, degraded: looks.all_degraded(), healed, back: back.unwrap_or(healed) }, stage))
}

async fn looking(gates: &Gates, looks: &mut Looks, plan: Plan, last: Instant) -> Result<(), Failure> {
    while now() < last {
        looks.look(gates).await?;
        sleep(plan.look).await;
    }
    Ok(())
}
