//! The model: its bounds, what can happen, and what each action does.

use std::time::Duration;

use lapin::BasicProperties;
use stateright::{Model, Property};
use trackfinity_unlocker::{
    message::{Envelope, Timestamp},
    policy::{self, AttemptHistory, HttpResponse, Judgement, RetryLimits, classify, decide},
    settle,
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

/// The result of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    Served,
    /// Also stands for an invalid message, which is settled in the same steps without a call.
    Refused,
    Transient,
    /// It expired, and there is no call.
    Expired,
    /// It failed, and would expire before its next attempt.
    FailedLast,
    /// An endpoint fault, a 429, a failed probe, or no call because of a pause: no attempt is
    /// burned.
    Spared,
}

/// What can happen. Workers and tasks are named by their index in the world.
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
    /// The worker publishes it again. An outcome may have reached other queues than the one that
    /// refused it.
    Refuse {
        worker: usize,
        task: usize,
    },
    /// The same, but the worker does not publish the outcome again: its request waits with it.
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
    /// The broker moves a copy back to the requests queue, but also keeps it in the retry queue.
    ExpireTwice {
        message: usize,
    },
}

impl Settlement {
    /// The steps after a reply, as the worker's own policy and settlement have them.
    fn steps_after(&self, attempts: u32, reply: Reply) -> Vec<Step> {
        let now = Timestamp::EPOCH;
        let status = match reply {
            Reply::Served => 200,
            Reply::Refused => 422,
            Reply::Transient | Reply::FailedLast | Reply::Expired => 503,
            Reply::Spared => 401,
        };
        let expires_at = matches!(reply, Reply::FailedLast | Reply::Expired).then_some(now);
        let is_called = reply != Reply::Expired;
        let reply = policy::Reply::Response(HttpResponse {
            status,
            body: b"true".into(),
            cut: false,
            retry_after: None,
        });
        let limits = RetryLimits {
            max_attempts: self.max_attempts,
            max_delay: Duration::from_secs(1024),
            give_up_after: Duration::from_secs(24 * 3600),
        };
        let past =
            AttemptHistory { attempts, first_received_at: now, expires_at, judgement: Judgement::Counts };
        let verdict = decide(classify(&reply), past, now, 1.0, &limits);
        let properties = BasicProperties::default().with_message_id("m-1".into());
        let message = Envelope::undecoded(properties, Vec::new(), now, String::new);
        let message = Envelope { expires_at: expires_at.filter(|_| !is_called), ..message };
        let publications = settle::without_call(&message, false, now)
            .unwrap_or_else(|| settle::publications(verdict, &message, &reply, now));
        let successors: Vec<_> = publications.iter().map(Successor::from).collect();
        self.in_chosen_order(&successors)
    }

    /// The steps for a request that has come back for its outcome.
    fn steps_of_pending(&self, worker: &mut Worker, message: &Message, ending: Ending) -> Vec<Step> {
        let Some(late) = worker.late(message) else {
            return self.in_chosen_order(&[Successor::Outcome(ending)]);
        };
        if worker.late[late].confirm == LateConfirm::Confirmed {
            worker.late.remove(late);
            return self.in_chosen_order(&[]);
        }
        self.in_chosen_order(&[Successor::Pending(ending)])
    }

    fn in_chosen_order(&self, successors: &[Successor]) -> Vec<Step> {
        let publish = |successor: &Successor| [Step::Publish(*successor), Step::AwaitConfirm];
        let mut steps: Vec<Step> = successors.iter().flat_map(publish).collect();
        match (self.order, successors) {
            (Order::ConfirmedThenAcked, _) => steps.push(Step::Ack),
            (Order::AckedThenPublished, _) => steps.insert(0, Step::Ack),
            (Order::AckedUnconfirmed, _) => steps.insert(steps.len() - 1, Step::Ack),
            (Order::AckedBetween, [dead_letter, outcome]) => {
                steps = publish(outcome).into_iter().chain([Step::Ack]).chain(publish(dead_letter)).collect();
            }
            (Order::OutcomeFirst, [dead_letter, outcome]) => {
                steps = [outcome, dead_letter].into_iter().flat_map(publish).chain([Step::Ack]).collect();
            }
            (Order::AckedBetween | Order::OutcomeFirst, _) => steps.push(Step::Ack),
        }
        steps
    }

    fn answer(&self, worker: &mut Worker, task: usize, reply: Reply) {
        let task = &mut worker.tasks[task];
        task.todo = Some(self.steps_after(task.message.attempts, reply));
        task.run_on(worker.publishing);
    }

    pub fn faults_used(&self, world: &World) -> u32 {
        let (total, remaining) = (self.budget, world.budget);
        total.crashes + total.losses - remaining.crashes - remaining.losses
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
        task.todo = Some(model.steps_of_pending(worker, &task.message, ending));
        task.run_on(worker.publishing);
    }
    worker.tasks.push(task);
}

/// The task's outcome is to be published later, by the worker that receives the request then.
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

/// Publishes again what was in flight.
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
        vec![world.normalized()]
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
        let Budget { crashes, losses, refusals, delays, spared } = &mut world.budget;
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
            Action::Answer { reply: Reply::Spared, .. } => *spared -= 1,
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
        let world = world.normalized();
        assert!(self.rank(&world) < self.rank(last), "{action:?} may repeat for ever");
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::of(self)
    }
}
