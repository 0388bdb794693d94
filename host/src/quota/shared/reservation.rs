//! What a call holds in Redis, from the moment it asks until it has ended.
//!
//! Each has a place in the queue of endings from the start, so that ending it never waits and never fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::sync::mpsc::OwnedPermit;

use super::counter::Counter;
use super::delivery::{Booking, Delivered, Ending, How, Running};
use super::unwritten::{Booked, Unwritten};
use crate::quota::{Outcome, Standing};

/// A reservation that Redis hasn't answered yet. Dropped, it is cancelled.
#[derive(Debug)]
pub(super) struct Pending<'a> {
    held: Option<(OwnedPermit<Ending>, Arc<Booking>)>,
    waiting: &'a AtomicU64,
}

impl<'a> Pending<'a> {
    /// `waiting` counts what has begun and not ended.
    pub(super) fn new(slot: OwnedPermit<Ending>, booking: Arc<Booking>, waiting: &'a AtomicU64) -> Self {
        waiting.fetch_add(1, Relaxed);
        Self { held: Some((slot, booking)), waiting }
    }

    /// Redis answered that nothing is reserved.
    pub(super) fn nothing(mut self) {
        self.held = None;
        self.waiting.fetch_sub(1, Relaxed);
    }

    /// Redis answered that all is reserved.
    pub(super) fn reserved(
        mut self,
        running: &Arc<Running>,
        (unwritten, booked): (&Arc<Unwritten>, Vec<Booked>),
        standings: Vec<Standing>,
    ) -> SharedReservation {
        let held = self.held.take().map(|(slot, booking)| {
            running.began(&booking);
            let held = Held { slot, booking, running: Arc::clone(running), unwritten: Arc::clone(unwritten), booked };
            held.note(|counter| (0, counter.amount));
            held
        });
        SharedReservation { held, standings }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if let Some((slot, booking)) = self.held.take() {
            slot.send(Ending::new(booking, How::Cancelled));
        }
    }
}

#[derive(Debug)]
struct Held {
    slot: OwnedPermit<Ending>,
    booking: Arc<Booking>,
    running: Arc<Running>,
    unwritten: Arc<Unwritten>,
    booked: Vec<Booked>,
}

impl Held {
    /// Notes to be written how the call's budgets moved.
    fn note(&self, units: impl Fn(&Counter) -> (u64, u64)) {
        for booked in &self.booked {
            if let Some(counter) = self.booking.counters.get(booked.place) {
                let (before, after) = units(counter);
                self.unwritten.moved(booked, before, after);
            }
        }
    }
}

/// What one call has reserved. Dropping it gives everything back.
#[derive(Debug)]
#[must_use = "a reservation that is dropped gives back what it reserved"]
pub struct SharedReservation {
    held: Option<Held>,
    standings: Vec<Standing>,
}

impl SharedReservation {
    /// Of no charges.
    pub(super) fn nothing() -> Self {
        Self { held: None, standings: Vec::new() }
    }

    /// How each charge stood when this was reserved, in the order of charges; once.
    pub fn tells_standings(&mut self) -> Vec<Standing> {
        std::mem::take(&mut self.standings)
    }

    /// The call has ended. Never waits.
    pub fn settle(mut self, outcome: Outcome) {
        self.end(outcome);
    }

    fn end(&mut self, outcome: Outcome) {
        if let Some(held) = self.held.take() {
            held.note(|counter| (counter.amount, counter.settled(outcome)));
            let Held { slot, booking, running, .. } = held;
            running.ended(&booking);
            slot.send(Ending::new(booking, How::Settled(outcome)));
        }
    }
}

/// The leases of a call that was admitted without Redis: once Redis is back, it counts there too until it has ended.
#[derive(Debug)]
pub(super) struct LocalLease {
    held: Option<(OwnedPermit<Ending>, Arc<Booking>)>,
    running: Arc<Running>,
    delivered: Arc<Delivered>,
}

impl LocalLease {
    /// Of a call that runs from now on.
    pub(super) fn new(
        slot: OwnedPermit<Ending>,
        booking: Arc<Booking>,
        running: &Arc<Running>,
        delivered: &Arc<Delivered>,
    ) -> Self {
        running.began_unheard(&booking);
        Self { held: Some((slot, booking)), running: Arc::clone(running), delivered: Arc::clone(delivered) }
    }
}

impl Drop for LocalLease {
    fn drop(&mut self) {
        let Some((slot, booking)) = self.held.take() else { return };
        self.running.ended(&booking);
        // Nobody renews it any more: what Redis hasn't heard of by now it never will.
        if booking.is_renewed.load(Relaxed) {
            self.delivered.waiting.fetch_add(1, Relaxed);
            slot.send(Ending::new(booking, How::Settled(Outcome::Refund)));
        }
    }
}

impl Drop for SharedReservation {
    fn drop(&mut self) {
        self.end(Outcome::Refund);
    }
}
