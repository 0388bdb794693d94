//! The test bench: a gate, scripted LLM servers before which it stands, and policies made for the purpose.

pub mod answer;
pub(crate) mod asking;
pub(crate) mod binary;
pub mod guest;
pub mod llm_server;
pub(crate) mod log;
pub mod proxy;
pub(crate) mod raw;
pub(crate) mod redis;
pub(crate) mod tls;
pub(crate) mod two_servers;
pub(crate) mod wat;

pub use answer::Answer;
pub(crate) use asking::Asking;
pub use llm_server::{LlmServer, Script};
pub(crate) use log::Log;
pub use proxy::{TestProxy, rpm};
pub(crate) use two_servers::TwoServers;

use std::time::Duration;

use tokio::time::timeout;

/// Waiting for something that must come is given up after this long.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for an event that must come.
pub async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, event).await {
        Ok(value) => value,
        Err(_) => is_late(what, PATIENCE),
    }
}

/// Asks again and again until the answer is yes. For what no event tells of: another process's file, a poll's effect.
pub async fn until<F: Future<Output = bool>>(what: &str, question: impl FnMut() -> F) {
    until_within(PATIENCE, what, question).await;
}

/// The same for what may take longer.
pub async fn until_within<F: Future<Output = bool>>(patience: Duration, what: &str, mut question: impl FnMut() -> F) {
    let asking = async {
        while !question().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(patience, asking).await.unwrap_or_else(|_| is_late(what, patience));
}

fn is_late(what: &str, patience: Duration) -> ! {
    panic!("{what} did not happen within {} seconds", patience.as_secs())
}
