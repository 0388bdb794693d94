//! What is asked at the same moment goes out together.

use futures_util::future::join_all;

use super::server::Server;
use super::*;

/// The number behind a name in what the server tells of itself.
fn fact(server: &Server, section: &str, name: &str) -> u64 {
    let facts: String = redis::from_redis_value(server.run(&["INFO", section])).unwrap();
    let behind = facts.split_once(name).unwrap_or_else(|| panic!("{facts}")).1;
    behind.split(|sign: char| !sign.is_ascii_digit()).next().unwrap().parse().unwrap()
}

fn reads(server: &Server) -> u64 {
    fact(server, "stats", "total_reads_processed:")
}

async fn undisturbed(server: &Server) -> Gate {
    Gate::sound_with(&server.url(), |settings| {
        settings.deadline = Duration::from_secs(2);
        settings.beat_every = Duration::from_secs(1_000);
    })
    .await
}

#[tokio::test]
async fn reservations_of_one_moment_share_a_message() {
    let server = Server::start();
    let gate = undisturbed(&server).await;
    let one = reads(&server);
    let itself = reads(&server) - one;
    let before = reads(&server);
    let reserved = join_all((0..20).map(|_| gate.reserve(per_minute(12)))).await;
    let messages = reads(&server) - before - itself;
    let (held, refused): (Vec<_>, Vec<_>) = reserved.into_iter().partition(Result::is_ok);
    assert_eq!((held.len(), refused.len()), (12, 8));
    assert!((1..=2).contains(&messages), "{messages}");
}

#[tokio::test]
async fn who_leaves_before_the_message_does_is_not_asked_about() {
    let server = Server::start();
    let gate = undisturbed(&server).await;
    let asked = || fact(&server, "commandstats", "cmdstat_evalsha:calls=");
    let before = asked();
    let (stays, leaves) = (gate.reserve(per_minute(2)), gate.reserve(per_minute(2)));
    let left = async {
        // Asked, and gone before the thread comes to the message.
        let mut leaves = Box::pin(leaves);
        assert!(futures_util::poll!(leaves.as_mut()).is_pending());
    };
    let (stayed, ()) = tokio::join!(stays, left);
    gate.until_totals(|totals| totals.cancelled == 1).await;
    assert_eq!(asked() - before, 2, "a reservation and a cancellation");
    assert_eq!(gate.admitted(per_minute(2), 2).await, 1);
    drop(stayed);
}
