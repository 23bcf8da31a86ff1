//! A model check of the order in which a delivery is settled. All that may happen, in any order and
//! within small bounds, is tried: two workers, calls of every result, publishes that are refused,
//! and, at any point, a crash, a lost connection, channel or broker.
//!
//! How the model stands to the worker:
//!
//! - A `Task` is one run of `Way::go`. Its steps are those of `carry_out` and `bury`: a dead letter,
//!   then an outcome; an outcome; or a parked copy. Each is awaited, as `Publishing::until_confirmed`
//!   and `Publishing::outcome` do; the acknowledgement comes last. Which of them, and the attempts,
//!   `policy::decide` says. What RabbitMQ gave up (`Undeliverable`) and what cannot be read
//!   (`Unreadable`) are settled in the steps of a refused request, by channels of their own.
//! - An outcome that is refused or not confirmed in time may be postponed (`Publishing::postpone`): a
//!   copy of the request that carries it (`PendingOutcome`) is confirmed in its place, and when it is
//!   taken, only the outcome is published. Its first publish may still be stored and confirmed: its own
//!   worker remembers that (`LateConfirms`), as long as it does not crash, and does not publish it
//!   again. Another one does. A refused outcome may have reached other queues than the one that
//!   refused it.
//! - A refused or returned publish, and one whose channel was closed, is repeated, as in
//!   `until_confirmed`; the broker may have the last one all the same. A session whose consuming or
//!   publishing connection is gone goes on until it is noticed, and then forgets all its tasks, as
//!   `Intake::run` does. A cancelled consumer, a panic and the end of a drain end a session alike.
//! - Deliveries go back to the queue when the broker notices that their connection is gone. What was
//!   written on the other one may still arrive after that (`Adrift`), or never.
//! - A message that came without an id is given one each time it is taken, and a parked copy carries
//!   it on: `Envelope::decode` and `Envelope::stamp`.
//!
//! Not in it: the delivery limit, which takes more crashes than happen here; the copy to `reply_to`,
//! on which nothing depends; time. Steps that wait for nothing are taken at once: see `Task::run_on`.
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
    properties::{ACKED_LAST, LETTER_FIRST, NEVER_LOST},
    settlement::{Order, Settlement},
    world::Budget,
};

/// No fault at all.
const NONE: Budget = Budget { crashes: 0, losses: 0, refusals: 0, delays: 0, innocent: 0 };

/// The producer's care for ids, request by request.
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

/// All properties hold, in every state there is.
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

/// The check finds that the property does not hold in this order, and the shortest way to see it.
fn refute(order: Order, property: &'static str) {
    let budget = Budget { crashes: 1, ..NONE };
    let model = Settlement { order, ..settlement(&[WITH_ID], 1, budget) };
    let example = (2..64).find_map(|depth| {
        let checker = model.clone().checker().target_max_depth(depth).spawn_bfs().join();
        checker.discovery(property)
    });
    let actions = example.expect("the check finds what is wrong").into_actions();
    println!("{order:?}; not so: {property}: {actions:?}");
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
fn a_request_survives_a_crash_of_a_worker_that_has_two_copies_in_hand() {
    check(settlement(&[WITH_ID], 2, Budget { crashes: 1, innocent: 1, ..NONE }));
}

#[test]
fn a_request_survives_a_loss_of_a_worker_that_has_two_copies_in_hand() {
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
fn one_worker_publishes_no_outcome_twice_that_is_confirmed_late() {
    let budget = Budget { delays: 3, ..NONE };
    check(Settlement { workers: 1, ..settlement(&[WITH_ID, WITHOUT_ID], 2, budget) });
}

#[test]
fn two_workers_publish_an_outcome_twice_at_most_in_copies() {
    check(settlement(&[WITH_ID], 2, Budget { delays: 2, refusals: 1, ..NONE }));
}

#[test]
fn to_acknowledge_before_publishing_would_lose_requests() {
    refute(Order::AckedThenPublished, NEVER_LOST);
    refute(Order::AckedThenPublished, ACKED_LAST);
}

#[test]
fn to_acknowledge_before_the_confirm_would_lose_requests() {
    refute(Order::AckedUnconfirmed, NEVER_LOST);
    refute(Order::AckedUnconfirmed, ACKED_LAST);
}

#[test]
fn to_acknowledge_between_outcome_and_dead_letter_would_lose_requests() {
    refute(Order::AckedBetween, NEVER_LOST);
    refute(Order::AckedBetween, ACKED_LAST);
}

#[test]
fn to_publish_the_outcome_first_would_tell_of_a_dead_letter_that_is_not_there() {
    refute(Order::OutcomeFirst, LETTER_FIRST);
}
