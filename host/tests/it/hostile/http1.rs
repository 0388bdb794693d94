//! A request as bytes on a connection of its own, and what came of it.

use std::net::SocketAddr;

use super::table::Outcome;
use crate::support::raw::Raw;

/// Sends these bytes and reads until the gate closes. More than one answer is as bad as a wrong one.
pub(super) async fn send(address: SocketAddr, bytes: &[u8]) -> Outcome {
    let mut raw = Raw::connect_to(address).await;
    raw.send(bytes).await;
    let text = raw.text().await;
    let mut rest = text.as_str();
    // "Go on" is no answer.
    while let Some(after) = rest.strip_prefix("HTTP/1.1 100 ") {
        rest = after.split_once("\r\n\r\n").map_or("", |(_, rest)| rest);
    }
    if rest.is_empty() {
        return Outcome::Cut;
    }
    assert_eq!(rest.matches("HTTP/1.").count(), 1, "one answer: {rest:?}");
    let status = rest.split(' ').nth(1).unwrap_or_else(|| panic!("no answer: {rest:?}"));
    Outcome::Answered(status.parse().unwrap())
}
