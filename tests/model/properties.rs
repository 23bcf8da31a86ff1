//! What must always hold; and what must be reachable, so that the check means something.

use stateright::{Model, Property};

use super::{
    settlement::Settlement,
    world::{Budget, Ending, Flight, Hold, Ledger, Worker, World},
};

pub const NEVER_LOST: &str = "no request is lost";
pub const ACKED_LAST: &str = "nothing is acknowledged before all that replaces it is confirmed";
pub const DEAD_LETTER_FIRST: &str = "a request with a failure outcome has a dead letter";
pub const ENDS_FINAL: &str = "every end is final";

/// The properties that always hold, and, if workers crash and connections are lost, what must be
/// reachable.
pub fn of(model: &Settlement) -> Vec<Property<Settlement>> {
    let mut properties = vec![
        Property::always(NEVER_LOST, never_lost),
        Property::always(ACKED_LAST, acked_last),
        Property::always(DEAD_LETTER_FIRST, dead_letter_first),
        Property::always(ENDS_FINAL, ends_final),
        Property::always("a request has one id", one_id),
        Property::always("only crashes, losses and postponed outcomes cause duplicates", single),
        Property::always("a worker knows what it has published", single_by_one_worker),
        Property::always("without a crash or a loss, all outcomes of a request are equal", equal),
        Property::sometimes("every fault happens, and all are final", final_after_all),
    ];
    if model.budget.crashes + model.budget.losses > 0 {
        properties.extend([
            Property::sometimes("something is published twice", repeated),
            Property::sometimes("a request has a dead letter and is unlocked", unlocked_with_dead_letter),
            Property::sometimes("two workers handle one request", handled_twice),
        ]);
    }
    properties
}

/// Each request is ready, unacknowledged, in a retry queue, or final.
fn never_lost(_: &Settlement, world: &World) -> bool {
    (0..world.ledgers.len()).all(|request| world.waits(request) || world.ledgers[request].is_final())
}

fn acked_last(_: &Settlement, world: &World) -> bool {
    let mut acked = world.tasks().filter(|task| matches!(task.hold, Hold::AckSent | Hold::Acked));
    acked.all(|task| task.next_step().is_none() && task.flight == Flight::None)
}

fn dead_letter_first(_: &Settlement, world: &World) -> bool {
    world.ledgers.iter().all(|ledger| !ledger.has(Ending::Dead) || !ledger.dead_letters.is_empty())
}

/// The model asserts that its rank falls with each step, so every path comes to such an end.
/// (stateright's own `eventually` may miss a path that joins another.)
fn ends_final(model: &Settlement, world: &World) -> bool {
    let mut actions = Vec::new();
    model.actions(world, &mut actions);
    let settled = |request: usize| world.ledgers[request].is_final() && !world.waits(request);
    !actions.is_empty() || (0..world.ledgers.len()).all(settled)
}

/// A request keeps the id that its producer gave it. A request without an id is given a new one
/// each time it is delivered from the start, which without a fault is once.
fn one_id(model: &Settlement, world: &World) -> bool {
    model.requests.iter().zip(&world.ledgers).all(|(given, ledger)| match given {
        true => ledger.ids().iter().all(|id| *id == 0),
        false => ledger.ids().len() <= 1 || model.faults_used(world) > 0,
    })
}

fn single(model: &Settlement, world: &World) -> bool {
    let other_faults =
        model.budget.refusals + model.budget.delays - world.budget.refusals - world.budget.delays;
    model.faults_used(world) + other_faults > 0 || world.ledgers.iter().all(|ledger| !ledger.repeated())
}

/// After a late confirm, a worker does not publish again; another one, which does not know of it,
/// does.
fn single_by_one_worker(model: &Settlement, world: &World) -> bool {
    let refused = model.budget.refusals - world.budget.refusals;
    let other_faults = model.faults_used(world) + refused;
    model.workers > 1 || other_faults > 0 || world.ledgers.iter().all(|ledger| !ledger.repeated())
}

/// All copies of an outcome are equal, and there is only one dead letter.
fn equal(model: &Settlement, world: &World) -> bool {
    let is_equal = |ledger: &Ledger| ledger.outcomes.len() <= 1 && !ledger.dead_letter_repeated;
    model.faults_used(world) > 0 || world.ledgers.iter().all(is_equal)
}

fn repeated(_: &Settlement, world: &World) -> bool {
    world.ledgers.iter().any(Ledger::repeated)
}

fn unlocked_with_dead_letter(_: &Settlement, world: &World) -> bool {
    let mut ledgers = world.ledgers.iter();
    ledgers.any(|ledger| {
        ledger.has(Ending::Unlocked) && !ledger.has(Ending::Dead) && !ledger.dead_letters.is_empty()
    })
}

fn handled_twice(_: &Settlement, world: &World) -> bool {
    let has = |worker: &Worker, request| worker.tasks.iter().any(|task| task.message.request == request);
    let workers = |request| world.workers.iter().filter(|worker| has(worker, request)).count();
    (0..world.ledgers.len()).any(|request| workers(request) > 1)
}

fn final_after_all(_: &Settlement, world: &World) -> bool {
    let Budget { crashes, losses, refusals, delays, spared } = world.budget;
    crashes + losses + refusals + delays + spared == 0 && world.ledgers.iter().all(Ledger::is_final)
}
