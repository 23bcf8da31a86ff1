//! What can happen, and what must hold.

use std::time::Duration;

use stateright::{Model, Property};
use trackfinity_unlocker::{
    message::Timestamp,
    policy::{Judgement, Meaning, Past, Reason, RetryLimits, Verdict, decide},
};

use super::{
    properties,
    world::{Adrift, Budget, Ending, Flight, Hold, Ledger, Message, Step, Successor, Task, Worker, World},
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
    Refuse {
        worker: usize,
        task: usize,
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
    /// Or the confirm does not come in time.
    CloseChannel {
        worker: usize,
        task: usize,
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
            Reply::Served => Meaning::Unlocked,
            Reply::Refused => Meaning::Refused(Reason::Http(422)),
            Reply::Transient => Meaning::Transient(Reason::Timeout, None),
            Reply::Innocent => Meaning::EndpointFault(Reason::Http(401)),
        };
        let limits = RetryLimits {
            max_attempts: self.max_attempts,
            max_delay: Duration::from_secs(1024),
            give_up_after: Duration::from_secs(24 * 3600),
        };
        let past = Past { attempts, first_received_at: Timestamp::EPOCH, judgement: Judgement::Counts };
        match decide(meaning, past, Timestamp::EPOCH, 1.0, &limits) {
            Verdict::Unlocked { .. } => self.program(&[Successor::Outcome(Ending::Unlocked)]),
            Verdict::Refused { .. } | Verdict::Abandoned { .. } => {
                self.program(&[Successor::DeadLetter, Successor::Outcome(Ending::Dead)])
            }
            Verdict::Parked { attempts, .. } => self.program(&[Successor::Parked { attempts }]),
        }
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

    fn offer_worker(&self, world: &World, index: usize, actions: &mut Vec<Action>) {
        let worker = &world.workers[index];
        let held = worker.tasks.iter().filter(|task| task.is_with_broker()).count();
        if worker.consuming && held < self.prefetch {
            let deliver = |message| Action::Deliver { worker: index, message };
            actions.extend(firsts(&world.requests).map(deliver));
        }
        for task in firsts(&worker.tasks) {
            offer_task(world, index, task, actions);
        }
        if worker.is_session_broken() {
            actions.push(Action::EndSession { worker: index });
        }
        if worker.tasks.is_empty() {
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

    fn answer(&self, worker: &mut Worker, task: usize, reply: Reply) {
        let task = &mut worker.tasks[task];
        task.todo = Some(self.plan(task.message.attempts, reply));
        task.run_on(worker.publishing);
    }

    pub fn faults_used(&self, world: &World) -> u32 {
        let (given, left) = (self.budget, world.budget);
        given.crashes + given.losses - left.crashes - left.losses
    }

    /// Falls with every step, so that each way comes to an end: what may go wrong, then what has gone
    /// wrong and is not yet noticed, then what may turn out badly, then the work left.
    fn rank(&self, world: &World) -> (u32, usize, u32, u32) {
        let budget = world.budget;
        let broken = world.workers.iter().filter(|worker| worker.is_session_broken()).count();
        let requests: u32 = world.requests.iter().map(|message| self.work_of_request(message.attempts)).sum();
        let retry: u32 = world.retry.iter().map(|message| self.work_of_parked(message.attempts)).sum();
        let adrift: u32 = world.adrift.iter().map(|publish| 1 + self.work_of(publish.successor)).sum();
        let tasks: u32 = world.tasks().map(|task| self.work_of_task(task)).sum();
        let work = requests + retry + adrift + tasks;
        (budget.crashes + budget.losses, broken, budget.refusals + budget.innocent, work)
    }

    /// More than any reply leaves to do, but for an innocent one, which is paid for otherwise.
    fn work_of_request(&self, attempts: u32) -> u32 {
        16 * self.max_attempts.saturating_sub(attempts)
    }

    fn work_of_parked(&self, attempts: u32) -> u32 {
        1 + self.work_of_request(attempts)
    }

    fn work_of(&self, successor: Successor) -> u32 {
        match successor {
            Successor::Parked { attempts } => self.work_of_parked(attempts),
            Successor::Outcome(_) | Successor::DeadLetter => 0,
        }
    }

    fn work_of_plan(&self, steps: &[Step]) -> u32 {
        let work = |step: &Step| match step {
            Step::Publish(successor) => 3 + self.work_of(*successor),
            Step::AwaitConfirm => 1,
            Step::Ack => 2,
        };
        steps.iter().map(work).sum()
    }

    fn work_of_task(&self, task: &Task) -> u32 {
        let Some(todo) = &task.todo else {
            return self.work_of_request(task.message.attempts) - 1;
        };
        let flight = match task.flight {
            Flight::Written(successor) => 2 + self.work_of(successor),
            Flight::Stored(_) => 1,
            Flight::None | Flight::Lost => 0,
        };
        self.work_of_plan(todo) + flight + u32::from(task.hold == Hold::AckSent)
    }
}

/// The places of all that differ from the one before: of equals, one stands for all.
fn firsts<T: PartialEq>(sorted: &[T]) -> impl Iterator<Item = usize> {
    (0..sorted.len()).filter(|index| *index == 0 || sorted[*index] != sorted[index - 1])
}

fn offer_task(world: &World, worker: usize, task: usize, actions: &mut Vec<Action>) {
    let Task { hold, flight, ref todo, .. } = world.workers[worker].tasks[task];
    if todo.is_none() {
        let replies = [Reply::Served, Reply::Refused, Reply::Transient];
        let innocent = (world.budget.innocent > 0).then_some(Reply::Innocent);
        let answer = |reply| Action::Answer { worker, task, reply };
        actions.extend(replies.into_iter().chain(innocent).map(answer));
    }
    if let Flight::Written(_) = flight {
        actions.push(Action::Store { worker, task });
        if world.budget.refusals > 0 {
            actions.push(Action::Refuse { worker, task });
        }
    }
    if let Flight::Stored(_) = flight {
        actions.push(Action::Confirm { worker, task });
    }
    if hold == Hold::AckSent {
        actions.push(Action::TakeAck { worker, task });
    }
    if world.budget.losses > 0 && matches!(flight, Flight::Written(_) | Flight::Stored(_)) {
        actions.push(Action::CloseChannel { worker, task });
    }
}

fn deliver(world: &mut World, worker: usize, message: usize) {
    let message = world.requests.remove(message);
    let ledger = &mut world.ledgers[message.request];
    let id = message.id.unwrap_or_else(|| {
        ledger.ids_given += 1;
        ledger.ids_given
    });
    let task = Task { message, id, hold: Hold::Unacked, flight: Flight::None, todo: None };
    world.workers[worker].tasks.push(task);
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
        let message =
            |(request, given): (usize, &bool)| Message { request, id: given.then_some(0), attempts: 0 };
        let world = World {
            requests: self.requests.iter().enumerate().map(message).collect(),
            retry: Vec::new(),
            ledgers: vec![Ledger::default(); self.requests.len()],
            workers: vec![Worker::with_new_session(); self.workers],
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
        let Budget { crashes, losses, refusals, innocent } = &mut world.budget;
        match action {
            Action::Crash { .. } => *crashes -= 1,
            Action::LoseConsuming { .. }
            | Action::LosePublishing { .. }
            | Action::CloseChannel { .. }
            | Action::LoseBroker
            | Action::ExpireTwice { .. } => *losses -= 1,
            Action::Refuse { .. } => *refusals -= 1,
            Action::Answer { reply: Reply::Innocent, .. } => *innocent -= 1,
            _ => {}
        }
        match action {
            Action::Deliver { worker, message } => deliver(&mut world, worker, message),
            Action::Answer { worker, task, reply } => self.answer(&mut world.workers[worker], task, reply),
            Action::Store { worker, task } => store(&mut world, worker, task),
            Action::Confirm { worker, task } => confirm(&mut world.workers[worker], task),
            Action::TakeAck { worker, task } => world.workers[worker].tasks[task].hold = Hold::Acked,
            Action::Refuse { worker, task } => {
                let worker = &mut world.workers[worker];
                publish_again(worker, task, worker.tasks[task].flight);
            }
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
            Action::Crash { worker } | Action::EndSession { worker } => world.end_session(worker),
            Action::LoseConsuming { worker } => world.lose_consuming(worker),
            Action::LosePublishing { worker } => world.lose_publishing(worker),
            Action::LoseBroker => (0..self.workers).for_each(|worker| world.end_session(worker)),
        }
        let world = world.in_order();
        assert!(self.rank(&world) < self.rank(last), "{action:?} may be taken for ever");
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}
