//! What can happen next.

use super::{
    settlement::{Action, Reply, Settlement},
    world::{Flight, Hold, LateConfirm, Successor, Task, World},
};

impl Settlement {
    pub fn offer_worker(&self, world: &World, index: usize, actions: &mut Vec<Action>) {
        let worker = &world.workers[index];
        let unacked = worker.tasks.iter().filter(|task| task.is_with_broker()).count();
        if worker.consuming && unacked < self.prefetch {
            // Without a delay, a late confirm comes before its request comes back.
            let may = |&message: &usize| {
                world.budget.delays > 0 || !worker.awaits_late_confirm(&world.requests[message])
            };
            let deliver = |message| Action::Deliver { worker: index, message };
            actions.extend(firsts(&world.requests).filter(may).map(deliver));
        }
        for task in firsts(&worker.tasks) {
            offer_task(world, index, task, actions);
        }
        for late in 0..worker.late.len() {
            offer_late(world, index, late, actions);
        }
        if worker.is_session_broken() {
            actions.push(Action::EndSession { worker: index });
        }
        if worker.tasks.is_empty() && worker.late.is_empty() {
            return;
        }
        if world.budget.crashes > 0 {
            actions.push(Action::Crash { worker: index });
        }
        if world.budget.losses > 0 && worker.consuming {
            actions.push(Action::LoseConsuming { worker: index });
        }
        if world.budget.losses > 0 && worker.publishing {
            actions.push(Action::LosePublishing { worker: index });
        }
    }
}

/// The indexes of all elements that differ from the one before: one of several equal ones is
/// enough.
pub fn firsts<T: PartialEq>(sorted: &[T]) -> impl Iterator<Item = usize> {
    (0..sorted.len()).filter(|index| *index == 0 || sorted[*index] != sorted[index - 1])
}

fn offer_task(world: &World, worker: usize, task: usize, actions: &mut Vec<Action>) {
    let Task { hold, flight, ref todo, .. } = world.workers[worker].tasks[task];
    if todo.is_none() {
        let replies = [Reply::Served, Reply::Refused, Reply::Transient, Reply::Expired, Reply::FailedLast];
        let spared = (world.budget.spared > 0).then_some(Reply::Spared);
        let answer = |reply| Action::Answer { worker, task, reply };
        actions.extend(replies.into_iter().chain(spared).map(answer));
    }
    if let Flight::Written(_) = flight {
        actions.push(Action::Store { worker, task });
    }
    if let Flight::Stored(_) = flight {
        actions.push(Action::Confirm { worker, task });
    }
    let is_outcome =
        matches!(flight, Flight::Written(Successor::Outcome(_)) | Flight::Stored(Successor::Outcome(_)));
    if world.budget.refusals > 0 && (matches!(flight, Flight::Written(_)) || is_outcome) {
        actions.push(Action::Refuse { worker, task });
    }
    if world.budget.refusals > 0 && is_outcome {
        actions.push(Action::RefuseAndPostpone { worker, task });
    }
    if world.budget.delays > 0 && is_outcome {
        actions.push(Action::Postpone { worker, task });
    }
    if hold == Hold::AckSent {
        actions.push(Action::TakeAck { worker, task });
    }
    if world.budget.losses > 0 && matches!(flight, Flight::Written(_) | Flight::Stored(_)) {
        actions.push(Action::CloseChannel { worker, task });
    }
}

fn offer_late(world: &World, worker: usize, late: usize, actions: &mut Vec<Action>) {
    let confirm = world.workers[worker].late[late].confirm;
    match confirm {
        LateConfirm::Written => actions.push(Action::StoreLate { worker, late }),
        LateConfirm::Stored => actions.push(Action::ConfirmLate { worker, late }),
        LateConfirm::Confirmed => return,
    }
    if world.budget.refusals > 0 {
        actions.push(Action::RefuseLate { worker, late });
    }
    if world.budget.losses > 0 {
        actions.push(Action::CloseLateChannel { worker, late });
    }
}
