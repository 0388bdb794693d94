//! A primary that dies, and its replica that Sentinel puts in its place.

use super::server::Server;
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gate_follows_sentinel_to_the_new_primary_with_what_was_counted() {
    let mut primary = Server::start();
    let mut replica = Server::start_with(&["--replicaof", "127.0.0.1", &primary.port.to_string()]);
    replica.until_it_says("Finished with success");
    let mut sentinel = Server::sentinel_of(&primary);
    sentinel.until_it_says("+slave");
    // The first Sentinel is a dead one.
    let url = format!("redis+sentinel://127.0.0.1:1,127.0.0.1:{}/main", sentinel.port);
    let gate = Gate::sound(&url).await;
    assert_eq!(gate.admitted(per_month(5), 3).await, 3);
    gate.until_totals(|totals| totals.waiting == 0).await;
    primary.run(&["WAIT", "1", "5000"]);
    primary.kill();
    gate.until_degraded().await;
    sentinel.until_it_says("+switch-master");
    gate.until(|condition| *condition == Condition::Sound).await;
    assert_eq!(gate.admitted(per_month(5), 9).await, 2);
}
