//! A model check of the order in which a delivery is settled. It tries everything that can happen,
//! in any order and within small bounds: two workers, calls with every result, publishes that are
//! refused, and, at any point, a crash or the loss of a connection, a channel or the broker.
//!
//! How the model corresponds to the worker:
//!
//! - A `Task` is one run of `Handler::handle`. What it publishes, and in which order, the worker's own
//!   `policy::decide` and `settle::publications` say, which the model calls. Each publish is awaited,
//!   as in `SessionPublisher::publish_until_confirmed` and `MessagePublisher::outcome`; the
//!   acknowledgement comes last. What RabbitMQ gave up (`Undeliverable`) and what cannot be read
//!   (`Unreadable`) are settled in the steps of a refused request, on channels of their own.
//! - An outcome that is refused or not confirmed in time may be postponed
//!   (`MessagePublisher::postpone`): a copy of the request that carries it (`PendingOutcome`) is
//!   confirmed in its place, and when the copy is delivered, only the outcome is published. The
//!   first publish of the outcome may still be stored and confirmed: its own worker remembers that
//!   (`LateConfirms`), unless it crashes, and does not publish the outcome again. Another worker
//!   does. A refused outcome may have reached other queues than the one that refused it.
//! - A publish that is refused or returned, or whose channel was closed, is repeated, as in
//!   `publish_until_confirmed`; the broker may still have the last one. A session whose consuming
//!   or publishing connection is lost continues until that is noticed, and then drops all its
//!   tasks, as `ConsumeLoop::run` does. A cancelled consumer, a panic and the end of a drain end a
//!   session in the same manner.
//! - Deliveries are requeued when the broker notices that their connection is lost. What was
//!   written on the other connection may still arrive after that (`Adrift`), or never.
//! - A message that came without an id is given one each time it is delivered, and a copy for a
//!   retry carries it on: `Envelope`.
//!
//! Not in the model: the delivery limit, which takes more crashes than happen here; the copy to
//! `reply_to`, on which nothing depends; time. Steps that wait for nothing are taken at once: see
//! `Task::run_on`.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

#[path = "model/offers.rs"]
mod offers;
#[path = "model/properties.rs"]
mod properties;
#[path = "model/rank.rs"]
mod rank;
#[path = "model/settlement.rs"]
mod settlement;
#[path = "model/world.rs"]
mod world;

use std::time::Instant;

use stateright::{Checker, Model};

use self::{
    properties::{ACKED_LAST, DEAD_LETTER_FIRST, NEVER_LOST},
    settlement::{Order, Settlement},
    world::Budget,
};

/// No fault at all.
const NONE: Budget = Budget { crashes: 0, losses: 0, refusals: 0, delays: 0, spared: 0 };

/// Whether the producer gave a request an id.
const WITH_ID: bool = true;
const WITHOUT_ID: bool = false;

fn settlement(requests: &[bool], prefetch: usize, budget: Budget) -> Settlement {
    Settlement {
        order: Order::ConfirmedThenAcked,
        requests: requests.to_vec(),
        workers: 2,
        prefetch,
        max_attempts: 2,
        budget,
    }
}

/// Asserts that all properties hold in every state.
fn check(model: Settlement) {
    let (requests, prefetch, budget) = (model.requests.len(), model.prefetch, model.budget);
    let started = Instant::now();
    let checker = model.checker().spawn_bfs().join();
    println!(
        "requests: {requests}, prefetch: {prefetch}, {budget:?}: {} states, {} steps, at most {} in a row, {:.1?}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        started.elapsed()
    );
    checker.assert_properties();
}

/// Asserts that the property does not hold in this order, and prints the shortest counterexample.
fn refute(order: Order, property: &'static str) {
    let budget = Budget { crashes: 1, ..NONE };
    let model = Settlement { order, ..settlement(&[WITH_ID], 1, budget) };
    let example = (2..64).find_map(|depth| {
        let checker = model.clone().checker().target_max_depth(depth).spawn_bfs().join();
        checker.discovery(property)
    });
    let actions = example.expect("a counterexample").into_actions();
    println!("{order:?} violates \"{property}\": {actions:?}");
}

#[test]
fn two_requests_survive_a_crash() {
    check(settlement(&[WITH_ID, WITHOUT_ID], 1, Budget { crashes: 1, ..NONE }));
}

#[test]
fn two_requests_survive_a_loss() {
    check(settlement(&[WITH_ID, WITH_ID], 1, Budget { losses: 1, ..NONE }));
}

#[test]
fn a_request_survives_a_crash_of_a_worker_that_handles_two_copies() {
    check(settlement(&[WITH_ID], 2, Budget { crashes: 1, spared: 1, ..NONE }));
}

#[test]
fn a_request_survives_a_loss_of_a_worker_that_handles_two_copies() {
    check(settlement(&[WITHOUT_ID], 2, Budget { losses: 1, ..NONE }));
}

#[test]
fn a_request_survives_two_crashes() {
    check(settlement(&[WITH_ID], 2, Budget { crashes: 2, ..NONE }));
}

#[test]
fn a_request_survives_two_losses() {
    check(settlement(&[WITH_ID], 1, Budget { losses: 2, ..NONE }));
}

#[test]
fn a_request_survives_a_crash_and_a_loss() {
    check(settlement(&[WITHOUT_ID], 1, Budget { crashes: 1, losses: 1, ..NONE }));
}

#[test]
fn an_outcome_that_a_listener_refuses_survives_a_crash() {
    check(settlement(&[WITH_ID], 1, Budget { crashes: 1, refusals: 2, ..NONE }));
}

#[test]
fn an_outcome_that_is_confirmed_late_survives_a_crash() {
    check(settlement(&[WITHOUT_ID], 1, Budget { crashes: 1, delays: 2, ..NONE }));
}

#[test]
fn an_outcome_that_is_confirmed_late_survives_a_loss() {
    check(settlement(&[WITH_ID], 1, Budget { losses: 1, delays: 1, ..NONE }));
}

#[test]
fn one_worker_never_publishes_an_outcome_twice_that_is_confirmed_late() {
    let budget = Budget { delays: 3, ..NONE };
    check(Settlement { workers: 1, ..settlement(&[WITH_ID, WITHOUT_ID], 2, budget) });
}

#[test]
fn outcomes_that_two_workers_publish_twice_are_equal() {
    check(settlement(&[WITH_ID], 2, Budget { delays: 2, refusals: 1, ..NONE }));
}

#[test]
fn acknowledging_before_publishing_would_lose_requests() {
    refute(Order::AckedThenPublished, NEVER_LOST);
    refute(Order::AckedThenPublished, ACKED_LAST);
}

#[test]
fn acknowledging_before_the_confirm_would_lose_requests() {
    refute(Order::AckedUnconfirmed, NEVER_LOST);
    refute(Order::AckedUnconfirmed, ACKED_LAST);
}

#[test]
fn acknowledging_between_outcome_and_dead_letter_would_lose_requests() {
    refute(Order::AckedBetween, NEVER_LOST);
    refute(Order::AckedBetween, ACKED_LAST);
}

#[test]
fn publishing_the_outcome_first_would_announce_a_dead_letter_that_does_not_exist() {
    refute(Order::OutcomeFirst, DEAD_LETTER_FIRST);
}
