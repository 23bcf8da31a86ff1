//! The state: the queues, the workers with their deliveries, and what is on the wire.

use std::collections::BTreeSet;

use trackfinity_unlocker::{message::Status, settle::Publication};

/// How a request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ending {
    Unlocked,
    /// Invalid, refused or abandoned: there is a dead letter.
    Dead,
}

/// A message in the requests or a retry queue.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Message {
    pub request: usize,
    /// The request's id, if it came with one or was given one before.
    pub id: Option<u8>,
    pub attempts: u32,
    /// The outcome that it carries, if only the outcome remains to be published.
    pub pending: Option<Ending>,
}

/// What replaces a request when its delivery is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Successor {
    Outcome(Ending),
    DeadLetter,
    Retry {
        attempts: u32,
    },
    /// The request waits, with its outcome in its headers.
    Pending(Ending),
}

impl From<&Publication> for Successor {
    fn from(publication: &Publication) -> Self {
        match publication {
            Publication::DeadLetter(_) => Self::DeadLetter,
            Publication::Retry(info, _) => Self::Retry { attempts: info.attempts },
            Publication::Outcome(outcome) => Self::Outcome(match outcome.status {
                Status::Unlocked => Ending::Unlocked,
                _ => Ending::Dead,
            }),
        }
    }
}

/// What remains to be done for a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    Publish(Successor),
    AwaitConfirm,
    Ack,
}

/// What the broker thinks of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hold {
    Unacked,
    /// The acknowledgement is on the wire: for the broker, the delivery is still unacked.
    AckSent,
    Acked,
    /// Its connection is lost: it is requeued, and cannot be acknowledged.
    Returned,
}

/// The publish a task waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flight {
    None,
    Written(Successor),
    /// The broker has it; the confirm is on the wire.
    Stored(Successor),
    /// Its connection is lost: no confirm will come.
    Lost,
}

/// One delivery, until its acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Task {
    pub message: Message,
    /// The request's id in everything that is published for it.
    pub id: u8,
    pub hold: Hold,
    pub flight: Flight,
    /// `None` until the call was answered.
    pub todo: Option<Vec<Step>>,
}

impl Task {
    pub fn next_step(&self) -> Option<Step> {
        self.todo.as_ref().and_then(|todo| todo.first().copied())
    }

    pub fn is_with_broker(&self) -> bool {
        matches!(self.hold, Hold::Unacked | Hold::AckSent)
    }

    pub fn skip_step(&mut self) {
        self.todo.as_mut().filter(|todo| !todo.is_empty()).map(|todo| todo.remove(0));
    }

    /// The last publish must be repeated.
    pub fn publish_again(&mut self, successor: Successor) {
        self.flight = Flight::None;
        self.todo.get_or_insert_default().insert(0, Step::Publish(successor));
    }

    /// Takes the steps that wait for nothing. What is written may still be dropped, and an
    /// acknowledgement may be lost, so a crash between two of these steps shows nothing new.
    pub fn run_on(&mut self, publishing: bool) {
        loop {
            match self.next_step() {
                Some(Step::Publish(successor)) if publishing && self.flight == Flight::None => {
                    self.flight = Flight::Written(successor);
                }
                Some(Step::Ack) if self.hold == Hold::Unacked => self.hold = Hold::AckSent,
                _ => return,
            }
            self.skip_step();
        }
    }

    /// Whether the task can have no further effect; `publishing`: whether the session still has its
    /// publishing connection.
    fn is_finished(&self, publishing: bool) -> bool {
        match self.hold {
            Hold::Acked => self.next_step().is_none(),
            Hold::Returned => {
                !publishing || self.flight == Flight::Lost || self.next_step() == Some(Step::Ack)
            }
            Hold::Unacked | Hold::AckSent => false,
        }
    }
}

/// An outcome whose confirm did not come in time, as its worker remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Late {
    pub request: usize,
    pub id: u8,
    pub ending: Ending,
    pub confirm: LateConfirm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LateConfirm {
    Written,
    /// The broker has it; the confirm is on the wire.
    Stored,
    Confirmed,
}

/// A worker in one session: two connections, and a task for each delivery.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Worker {
    pub consuming: bool,
    pub publishing: bool,
    pub tasks: Vec<Task>,
    /// Kept for the life of the process; only confirmed ones outlive the session.
    pub late: Vec<Late>,
}

impl Worker {
    /// A process that has just started.
    pub fn new() -> Self {
        Self { consuming: true, publishing: true, tasks: Vec::new(), late: Vec::new() }
    }

    /// What the worker knows of a postponed outcome.
    pub fn late(&self, message: &Message) -> Option<usize> {
        let is_its = |late: &Late| late.request == message.request && Some(late.id) == message.id;
        self.late.iter().position(is_its).filter(|_| message.pending.is_some())
    }

    pub fn awaits_late_confirm(&self, message: &Message) -> bool {
        self.late(message).is_some_and(|late| self.late[late].confirm != LateConfirm::Confirmed)
    }

    pub fn is_session_broken(&self) -> bool {
        !(self.consuming && self.publishing)
    }
}

/// A publish that was written on a connection that is lost: the broker may still receive it, or
/// never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Adrift {
    pub request: usize,
    pub id: u8,
    pub successor: Successor,
}

/// What was published for one request.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ledger {
    /// The different outcomes, by ending and id.
    pub outcomes: BTreeSet<(Ending, u8)>,
    /// The different dead letters, by id.
    pub dead_letters: BTreeSet<u8>,
    /// Whether there was more than one outcome.
    pub outcome_repeated: bool,
    /// Whether there was more than one dead letter.
    pub dead_letter_repeated: bool,
    /// How many ids workers gave it.
    pub ids_given: u8,
}

impl Ledger {
    fn add_outcome(&mut self, ending: Ending, id: u8) {
        self.outcome_repeated |= !self.outcomes.is_empty();
        self.outcomes.insert((ending, id));
    }

    fn add_dead_letter(&mut self, id: u8) {
        self.dead_letter_repeated |= !self.dead_letters.is_empty();
        self.dead_letters.insert(id);
    }

    pub fn repeated(&self) -> bool {
        self.outcome_repeated || self.dead_letter_repeated
    }

    pub fn has(&self, ending: Ending) -> bool {
        self.outcomes.iter().any(|(known, _)| *known == ending)
    }

    pub fn is_final(&self) -> bool {
        self.has(Ending::Unlocked) || self.has(Ending::Dead) && !self.dead_letters.is_empty()
    }

    pub fn ids(&self) -> BTreeSet<u8> {
        self.outcomes.iter().map(|(_, id)| *id).chain(self.dead_letters.iter().copied()).collect()
    }
}

/// What may still go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Budget {
    /// Workers that die.
    pub crashes: u32,
    /// Connections or channels that are lost, alone or with the whole broker.
    pub losses: u32,
    /// Publishes that the broker refuses or returns.
    pub refusals: u32,
    /// Outcomes whose confirm does not come in time, and requests that come back before it does.
    pub delays: u32,
    /// Calls that burn no attempt, or that are not made.
    pub spared: u32,
}

/// The whole state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub requests: Vec<Message>,
    pub retry: Vec<Message>,
    pub ledgers: Vec<Ledger>,
    pub workers: Vec<Worker>,
    pub adrift: Vec<Adrift>,
    pub budget: Budget,
}

impl World {
    pub fn store(&mut self, request: usize, id: u8, successor: Successor) {
        match successor {
            Successor::Outcome(ending) => self.ledgers[request].add_outcome(ending, id),
            Successor::DeadLetter => self.ledgers[request].add_dead_letter(id),
            Successor::Retry { attempts } => {
                self.retry.push(Message { request, id: Some(id), attempts, pending: None });
            }
            Successor::Pending(ending) => {
                self.retry.push(Message { request, id: Some(id), attempts: 0, pending: Some(ending) });
            }
        }
    }

    /// The broker notices that a worker lost its consuming connection.
    pub fn lose_consuming(&mut self, worker: usize) {
        let worker = &mut self.workers[worker];
        worker.consuming = false;
        for task in &mut worker.tasks {
            if task.is_with_broker() {
                self.requests.push(task.message.clone());
                task.hold = Hold::Returned;
            }
        }
    }

    pub fn lose_publishing(&mut self, worker: usize) {
        self.workers[worker].publishing = false;
        for task in 0..self.workers[worker].tasks.len() {
            self.lose_flight(worker, task);
        }
        for late in (0..self.workers[worker].late.len()).rev() {
            self.lose_late(worker, late);
        }
    }

    /// No confirm will come: the outcome must be published again.
    pub fn lose_late(&mut self, worker: usize, late: usize) {
        let Late { request, id, ending, confirm } = self.workers[worker].late[late];
        if confirm == LateConfirm::Written {
            self.adrift.push(Adrift { request, id, successor: Successor::Outcome(ending) });
        }
        if confirm != LateConfirm::Confirmed {
            self.workers[worker].late.remove(late);
        }
    }

    pub fn lose_flight(&mut self, worker: usize, task: usize) {
        let task = &mut self.workers[worker].tasks[task];
        if let Flight::Written(successor) = task.flight {
            self.adrift.push(Adrift { request: task.message.request, id: task.id, successor });
        }
        if task.flight != Flight::None {
            task.flight = Flight::Lost;
        }
    }

    /// The worker drops its tasks; the broker requeues their deliveries. The next session is open.
    pub fn end_session(&mut self, worker: usize) {
        self.lose_consuming(worker);
        self.lose_publishing(worker);
        let late = std::mem::take(&mut self.workers[worker].late);
        self.workers[worker] = Worker { late, ..Worker::new() };
    }

    /// The same, but another process starts, which remembers nothing.
    pub fn crash(&mut self, worker: usize) {
        self.end_session(worker);
        self.workers[worker] = Worker::new();
    }

    /// The normal form, so that equal states look equal: any message of a queue may be delivered
    /// next, workers are interchangeable, and finished tasks are removed.
    pub fn normalized(mut self) -> Self {
        for worker in &mut self.workers {
            let publishing = worker.publishing;
            worker.tasks.retain(|task| !task.is_finished(publishing));
            if !worker.consuming && !publishing {
                let late = std::mem::take(&mut worker.late);
                *worker = Worker { late, ..Worker::new() };
            }
            worker.tasks.sort_unstable();
            worker.late.sort_unstable();
        }
        self.workers.sort_unstable();
        self.requests.sort_unstable();
        self.retry.sort_unstable();
        self.adrift.sort_unstable();
        self
    }

    /// Whether the broker still keeps a copy of the request that is not settled.
    pub fn waits(&self, request: usize) -> bool {
        let unacked = self.tasks().filter(|task| task.is_with_broker()).map(|task| &task.message);
        self.requests.iter().chain(&self.retry).chain(unacked).any(|message| message.request == request)
    }

    pub fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.workers.iter().flat_map(|worker| &worker.tasks)
    }
}
