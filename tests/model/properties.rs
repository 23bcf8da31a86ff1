//! What must hold, and what must be possible for that to mean anything.

use stateright::{Model, Property};

use super::{
    settlement::Settlement,
    world::{Budget, Ending, Flight, Hold, Ledger, Worker, World},
};

pub const NEVER_LOST: &str = "no request is lost";
pub const ACKED_LAST: &str = "nothing is acknowledged before all that succeeds it is confirmed";
pub const LETTER_FIRST: &str = "whoever hears of a dead request finds its dead letter";
pub const ENDS_FINAL: &str = "every end is final";

/// Those that hold always; and, where workers crash and lines are lost, what must be possible.
pub fn of(model: &Settlement) -> Vec<Property<Settlement>> {
    let mut properties = vec![
        Property::always(NEVER_LOST, never_lost),
        Property::always(ACKED_LAST, acked_last),
        Property::always(LETTER_FIRST, letter_first),
        Property::always(ENDS_FINAL, ends_final),
        Property::always("a request goes by one id", one_id),
        Property::always("duplicates come of crashes, losses and postponed outcomes alone", single),
        Property::always("a worker knows what it has published", single_by_one_worker),
        Property::always("without a crash or a loss, all outcomes of a request are equal", equal),
        Property::sometimes("every fault happens, and all are final", final_after_all),
    ];
    if model.budget.crashes + model.budget.losses > 0 {
        properties.extend([
            Property::sometimes("something comes twice", repeated),
            Property::sometimes("a request is unlocked that left a dead letter", unlocked_after_death),
            Property::sometimes("two workers have one request in hand", in_two_hands),
        ]);
    }
    properties
}

/// Each request is ready, unacknowledged, parked, or final.
fn never_lost(_: &Settlement, world: &World) -> bool {
    (0..world.ledgers.len()).all(|request| world.waits(request) || world.ledgers[request].is_final())
}

fn acked_last(_: &Settlement, world: &World) -> bool {
    let mut acked = world.tasks().filter(|task| matches!(task.hold, Hold::AckSent | Hold::Acked));
    acked.all(|task| task.next_step().is_none() && task.flight == Flight::None)
}

fn letter_first(_: &Settlement, world: &World) -> bool {
    world.ledgers.iter().all(|ledger| !ledger.has(Ending::Dead) || !ledger.dead_letters.is_empty())
}

/// Each step of the model leads on, which it asserts, so every way comes to such an end. (stateright's
/// own `eventually` may miss a way that joins another.)
fn ends_final(model: &Settlement, world: &World) -> bool {
    let mut actions = Vec::new();
    model.actions(world, &mut actions);
    let settled = |request: usize| world.ledgers[request].is_final() && !world.waits(request);
    !actions.is_empty() || (0..world.ledgers.len()).all(settled)
}

/// The one its producer gave it. One that came without is given another each time it is taken anew,
/// which without a fault is once.
fn one_id(model: &Settlement, world: &World) -> bool {
    model.requests.iter().zip(&world.ledgers).all(|(given, ledger)| match given {
        true => ledger.ids().iter().all(|id| *id == 0),
        false => ledger.ids().len() <= 1 || model.faults_used(world) > 0,
    })
}

fn single(model: &Settlement, world: &World) -> bool {
    let troubles = model.budget.refusals + model.budget.delays - world.budget.refusals - world.budget.delays;
    model.faults_used(world) + troubles > 0 || world.ledgers.iter().all(|ledger| !ledger.repeated())
}

/// What one worker publishes is not repeated for a late confirm; by another one that does not know of it.
fn single_by_one_worker(model: &Settlement, world: &World) -> bool {
    let refused = model.budget.refusals - world.budget.refusals;
    let troubles = model.faults_used(world) + refused;
    model.workers > 1 || troubles > 0 || world.ledgers.iter().all(|ledger| !ledger.repeated())
}

/// However often one of them is published. There is one dead letter, too.
fn equal(model: &Settlement, world: &World) -> bool {
    let is_equal = |ledger: &Ledger| ledger.outcomes.len() <= 1 && !ledger.dead_letter_repeated;
    model.faults_used(world) > 0 || world.ledgers.iter().all(is_equal)
}

fn repeated(_: &Settlement, world: &World) -> bool {
    world.ledgers.iter().any(Ledger::repeated)
}

fn unlocked_after_death(_: &Settlement, world: &World) -> bool {
    let mut ledgers = world.ledgers.iter();
    ledgers.any(|ledger| {
        ledger.has(Ending::Unlocked) && !ledger.has(Ending::Dead) && !ledger.dead_letters.is_empty()
    })
}

fn in_two_hands(_: &Settlement, world: &World) -> bool {
    let has = |worker: &Worker, request| worker.tasks.iter().any(|task| task.message.request == request);
    let hands = |request| world.workers.iter().filter(|worker| has(worker, request)).count();
    (0..world.ledgers.len()).any(|request| hands(request) > 1)
}

fn final_after_all(_: &Settlement, world: &World) -> bool {
    let Budget { crashes, losses, refusals, delays, innocent } = world.budget;
    crashes + losses + refusals + delays + innocent == 0 && world.ledgers.iter().all(Ledger::is_final)
}
