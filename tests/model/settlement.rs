//! What can happen, and what must hold.

use std::time::Duration;

use stateright::{Model, Property};
use trackfinity_unlocker::{
    message::Timestamp,
    policy::{AttemptHistory, Classification, Judgement, Reason, RetryLimits, Verdict, decide},
};

use super::{
    offers::firsts,
    properties,
    world::{
        Adrift, Budget, Ending, Flight, Hold, Late, LateConfirm, Ledger, Message, Step, Successor, Task,
        Worker, World,
    },
};

/// The order in which a delivery is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The worker's own: each successor confirmed, one after the other, then the acknowledgement.
    ConfirmedThenAcked,
    /// Wrong: acknowledged, then published.
    AckedThenPublished,
    /// Wrong: acknowledged as soon as the last successor is written.
    AckedUnconfirmed,
    /// Wrong: acknowledged between the outcome and its dead letter.
    AckedBetween,
    /// Wrong: nothing is lost, but an outcome comes before its dead letter.
    OutcomeFirst,
}

/// The model and its bounds.
#[derive(Clone, Debug)]
pub struct Settlement {
    pub order: Order,
    /// For each request whether its producer gave it an id.
    pub requests: Vec<bool>,
    pub workers: usize,
    /// The most deliveries that a worker holds at once.
    pub prefetch: usize,
    pub max_attempts: u32,
    pub budget: Budget,
}

/// What comes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    Served,
    /// Or the message is no request, which is found out without a call and settled alike.
    Refused,
    Transient,
    /// An endpoint fault, a 429, a probe that failed, or no call for the pause: no attempt is burned.
    Innocent,
}

/// What can happen. Workers and tasks go by their place in the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Deliver {
        worker: usize,
        message: usize,
    },
    Answer {
        worker: usize,
        task: usize,
        reply: Reply,
    },
    Store {
        worker: usize,
        task: usize,
    },
    Confirm {
        worker: usize,
        task: usize,
    },
    /// The worker publishes it again. An outcome may have reached other queues than the one that refused it.
    Refuse {
        worker: usize,
        task: usize,
    },
    /// The same, and the worker does not publish the outcome again: its request waits with it.
    RefuseAndPostpone {
        worker: usize,
        task: usize,
    },
    /// An outcome's confirm does not come in time.
    Postpone {
        worker: usize,
        task: usize,
    },
    StoreLate {
        worker: usize,
        late: usize,
    },
    ConfirmLate {
        worker: usize,
        late: usize,
    },
    RefuseLate {
        worker: usize,
        late: usize,
    },
    TakeAck {
        worker: usize,
        task: usize,
    },
    Expire {
        message: usize,
    },
    StoreAdrift {
        publish: usize,
    },
    DropAdrift {
        publish: usize,
    },
    EndSession {
        worker: usize,
    },
    Crash {
        worker: usize,
    },
    LoseConsuming {
        worker: usize,
    },
    LosePublishing {
        worker: usize,
    },
    CloseChannel {
        worker: usize,
        task: usize,
    },
    CloseLateChannel {
        worker: usize,
        late: usize,
    },
    LoseBroker,
    /// The broker moves a parked copy back and forgets that it did.
    ExpireTwice {
        message: usize,
    },
}

impl Settlement {
    /// What is done after a reply, by the worker's own policy.
    fn plan(&self, attempts: u32, reply: Reply) -> Vec<Step> {
        let meaning = match reply {
            Reply::Served => Classification::Unlocked,
            Reply::Refused => Classification::Refused(Reason::Http(422)),
            Reply::Transient => Classification::Transient(Reason::Timeout, None),
            Reply::Innocent => Classification::EndpointFault(Reason::Http(401)),
        };
        let limits = RetryLimits {
            max_attempts: self.max_attempts,
            max_delay: Duration::from_secs(1024),
            give_up_after: Duration::from_secs(24 * 3600),
        };
        let past =
            AttemptHistory { attempts, first_received_at: Timestamp::EPOCH, judgement: Judgement::Counts };
        match decide(meaning, past, Timestamp::EPOCH, 1.0, &limits) {
            Verdict::Unlocked { .. } => self.program(&[Successor::Outcome(Ending::Unlocked)]),
            Verdict::Refused { .. } | Verdict::Abandoned { .. } => {
                self.program(&[Successor::DeadLetter, Successor::Outcome(Ending::Dead)])
            }
            Verdict::Retry { attempts, .. } => self.program(&[Successor::Parked { attempts }]),
        }
    }

    /// What is done for a request that has come back for its outcome.
    fn plan_of_pending(&self, worker: &mut Worker, message: &Message, ending: Ending) -> Vec<Step> {
        let Some(late) = worker.late(message) else {
            return self.program(&[Successor::Outcome(ending)]);
        };
        if worker.late[late].confirm == LateConfirm::Confirmed {
            worker.late.remove(late);
            return self.program(&[]);
        }
        self.program(&[Successor::Pending(ending)])
    }

    fn program(&self, successors: &[Successor]) -> Vec<Step> {
        let publish = |successor: &Successor| [Step::Publish(*successor), Step::AwaitConfirm];
        let mut steps: Vec<Step> = successors.iter().flat_map(publish).collect();
        match (self.order, successors) {
            (Order::ConfirmedThenAcked, _) => steps.push(Step::Ack),
            (Order::AckedThenPublished, _) => steps.insert(0, Step::Ack),
            (Order::AckedUnconfirmed, _) => steps.insert(steps.len() - 1, Step::Ack),
            (Order::AckedBetween, [letter, outcome]) => {
                steps = publish(outcome).into_iter().chain([Step::Ack]).chain(publish(letter)).collect();
            }
            (Order::OutcomeFirst, [letter, outcome]) => {
                steps = [outcome, letter].into_iter().flat_map(publish).chain([Step::Ack]).collect();
            }
            (Order::AckedBetween | Order::OutcomeFirst, _) => steps.push(Step::Ack),
        }
        steps
    }

    fn answer(&self, worker: &mut Worker, task: usize, reply: Reply) {
        let task = &mut worker.tasks[task];
        task.todo = Some(self.plan(task.message.attempts, reply));
        task.run_on(worker.publishing);
    }

    pub fn faults_used(&self, world: &World) -> u32 {
        let (given, left) = (self.budget, world.budget);
        given.crashes + given.losses - left.crashes - left.losses
    }
}

fn deliver(model: &Settlement, world: &mut World, worker: usize, message: usize) {
    let message = world.requests.remove(message);
    let ledger = &mut world.ledgers[message.request];
    let id = message.id.unwrap_or_else(|| {
        ledger.ids_given += 1;
        ledger.ids_given
    });
    let worker = &mut world.workers[worker];
    let mut task = Task { id, hold: Hold::Unacked, flight: Flight::None, todo: None, message };
    if let Some(ending) = task.message.pending {
        task.todo = Some(model.plan_of_pending(worker, &task.message, ending));
        task.run_on(worker.publishing);
    }
    worker.tasks.push(task);
}

/// The task's outcome is to be published later, by whoever takes the request then.
fn postpone(worker: &mut Worker, task: usize, is_late: bool) {
    let Task { flight, id, ref message, .. } = worker.tasks[task];
    let (ending, confirm) = match flight {
        Flight::Written(Successor::Outcome(ending)) => (ending, LateConfirm::Written),
        Flight::Stored(Successor::Outcome(ending)) => (ending, LateConfirm::Stored),
        _ => return,
    };
    if is_late {
        worker.late.push(Late { request: message.request, id, ending, confirm });
    }
    let task = &mut worker.tasks[task];
    task.publish_again(Successor::Pending(ending));
    task.run_on(worker.publishing);
}

fn store(world: &mut World, worker: usize, task: usize) {
    let task = &mut world.workers[worker].tasks[task];
    if let Flight::Written(successor) = task.flight {
        task.flight = Flight::Stored(successor);
        let (request, id) = (task.message.request, task.id);
        world.store(request, id, successor);
    }
}

fn confirm(worker: &mut Worker, task: usize) {
    let task = &mut worker.tasks[task];
    task.flight = Flight::None;
    task.skip_step();
    task.run_on(worker.publishing);
}

/// What was in flight is published again.
fn publish_again(worker: &mut Worker, task: usize, flight: Flight) {
    let task = &mut worker.tasks[task];
    if let Flight::Written(successor) | Flight::Stored(successor) = flight {
        task.publish_again(successor);
        task.run_on(worker.publishing);
    }
}

impl Model for Settlement {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let message = |(request, given): (usize, &bool)| Message {
            request,
            id: given.then_some(0),
            attempts: 0,
            pending: None,
        };
        let world = World {
            requests: self.requests.iter().enumerate().map(message).collect(),
            retry: Vec::new(),
            ledgers: vec![Ledger::default(); self.requests.len()],
            workers: vec![Worker::new(); self.workers],
            adrift: Vec::new(),
            budget: self.budget,
        };
        vec![world.in_order()]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for worker in firsts(&world.workers) {
            self.offer_worker(world, worker, actions);
        }
        actions.extend(firsts(&world.retry).map(|message| Action::Expire { message }));
        for publish in firsts(&world.adrift) {
            actions.extend([Action::StoreAdrift { publish }, Action::DropAdrift { publish }]);
        }
        if world.budget.losses > 0 {
            actions.extend(firsts(&world.retry).map(|message| Action::ExpireTwice { message }));
            if world.tasks().next().is_some() {
                actions.push(Action::LoseBroker);
            }
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        let Budget { crashes, losses, refusals, delays, innocent } = &mut world.budget;
        match action {
            Action::Crash { .. } => *crashes -= 1,
            Action::LoseConsuming { .. }
            | Action::LosePublishing { .. }
            | Action::CloseChannel { .. }
            | Action::CloseLateChannel { .. }
            | Action::LoseBroker
            | Action::ExpireTwice { .. } => *losses -= 1,
            Action::Refuse { .. } | Action::RefuseAndPostpone { .. } | Action::RefuseLate { .. } => {
                *refusals -= 1;
            }
            Action::Postpone { .. } => *delays -= 1,
            Action::Deliver { worker, message }
                if last.workers[worker].awaits_late_confirm(&last.requests[message]) =>
            {
                *delays -= 1;
            }
            Action::Answer { reply: Reply::Innocent, .. } => *innocent -= 1,
            _ => {}
        }
        match action {
            Action::Deliver { worker, message } => deliver(self, &mut world, worker, message),
            Action::Answer { worker, task, reply } => self.answer(&mut world.workers[worker], task, reply),
            Action::Store { worker, task } => store(&mut world, worker, task),
            Action::Confirm { worker, task } => confirm(&mut world.workers[worker], task),
            Action::TakeAck { worker, task } => world.workers[worker].tasks[task].hold = Hold::Acked,
            Action::Refuse { worker, task } => {
                let worker = &mut world.workers[worker];
                publish_again(worker, task, worker.tasks[task].flight);
            }
            Action::RefuseAndPostpone { worker, task } => postpone(&mut world.workers[worker], task, false),
            Action::Postpone { worker, task } => postpone(&mut world.workers[worker], task, true),
            Action::StoreLate { worker, late } => {
                let late = &mut world.workers[worker].late[late];
                late.confirm = LateConfirm::Stored;
                let Late { request, id, ending, .. } = *late;
                world.store(request, id, Successor::Outcome(ending));
            }
            Action::ConfirmLate { worker, late } => {
                world.workers[worker].late[late].confirm = LateConfirm::Confirmed;
            }
            Action::RefuseLate { worker, late } => drop(world.workers[worker].late.remove(late)),
            Action::CloseLateChannel { worker, late } => world.lose_late(worker, late),
            Action::CloseChannel { worker, task } => {
                let flight = world.workers[worker].tasks[task].flight;
                world.lose_flight(worker, task);
                publish_again(&mut world.workers[worker], task, flight);
            }
            Action::Expire { message } => {
                let message = world.retry.remove(message);
                world.requests.push(message);
            }
            Action::ExpireTwice { message } => world.requests.push(world.retry[message].clone()),
            Action::StoreAdrift { publish } => {
                let Adrift { request, id, successor } = world.adrift.remove(publish);
                world.store(request, id, successor);
            }
            Action::DropAdrift { publish } => drop(world.adrift.remove(publish)),
            Action::Crash { worker } => world.crash(worker),
            Action::EndSession { worker } => world.end_session(worker),
            Action::LoseConsuming { worker } => world.lose_consuming(worker),
            Action::LosePublishing { worker } => world.lose_publishing(worker),
            Action::LoseBroker => (0..self.workers).for_each(|worker| world.end_session(worker)),
        }
        let world = world.in_order();
        assert!(self.rank(&world) < self.rank(last), "{action:?} may be taken for ever");
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::of(self)
    }
}
