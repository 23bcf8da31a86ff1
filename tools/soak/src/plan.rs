//! Which faults there are, and which come next.

use std::time::Duration;

use fastrand::Rng;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Broker,
    Worker(usize),
    Trackfinity,
    /// A listener's queue.
    Listener,
    /// What senders publish.
    Requests,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    KillBroker,
    FreezeBroker,
    MemoryAlarm,
    CloseAllConnections,
    KillWorker,
    FreezeWorker,
    CutWorker,
    HalfOpenWorker,
    StopWorker,
    JoinOrLeave,
    WrongKey,
    CutTrackfinity,
    HalfOpenTrackfinity,
    FillListener,
    SuspendListener,
    BadIds,
    DeliveryLimit,
}

const KINDS: [Kind; 17] = [
    Kind::KillBroker,
    Kind::FreezeBroker,
    Kind::MemoryAlarm,
    Kind::CloseAllConnections,
    Kind::KillWorker,
    Kind::FreezeWorker,
    Kind::CutWorker,
    Kind::HalfOpenWorker,
    Kind::StopWorker,
    Kind::JoinOrLeave,
    Kind::WrongKey,
    Kind::CutTrackfinity,
    Kind::HalfOpenTrackfinity,
    Kind::FillListener,
    Kind::SuspendListener,
    Kind::BadIds,
    Kind::DeliveryLimit,
];

#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub kind: Kind,
    pub target: Target,
    pub lasts: Duration,
}

impl Plan {
    /// Drawn whole beforehand: what happens in the world must not change what is drawn.
    pub fn draw(deck: &mut Vec<Kind>, rng: &mut Rng) -> Self {
        if deck.is_empty() {
            deck.extend(KINDS);
            rng.shuffle(deck);
        }
        let kind = deck.pop().expect("a deck was just made");
        let worker = Target::Worker(rng.usize(..2));
        let (target, milliseconds) = match kind {
            Kind::KillBroker => (Target::Broker, 200..3_000),
            Kind::FreezeBroker => (Target::Broker, 1_000..9_000),
            Kind::MemoryAlarm => (Target::Broker, 1_000..6_000),
            Kind::CloseAllConnections => (Target::Broker, 0..1),
            Kind::KillWorker => (worker, 0..2_500),
            Kind::FreezeWorker => (worker, 1_000..9_000),
            Kind::CutWorker => (worker, 0..4_000),
            Kind::HalfOpenWorker => (worker, 2_000..10_000),
            Kind::StopWorker => (worker, 0..2_000),
            Kind::JoinOrLeave => (Target::Worker(1), 0..1),
            Kind::WrongKey => (Target::Trackfinity, 2_500..7_000),
            Kind::CutTrackfinity => (Target::Trackfinity, 0..4_000),
            Kind::HalfOpenTrackfinity => (Target::Trackfinity, 1_000..6_000),
            Kind::FillListener => (Target::Listener, 2_000..10_000),
            Kind::SuspendListener => (Target::Listener, 2_000..10_000),
            Kind::BadIds => (Target::Requests, 0..1_500),
            Kind::DeliveryLimit => (Target::Broker, 3_000..8_000),
        };
        Self { kind, target, lasts: Duration::from_millis(rng.u64(milliseconds)) }
    }
}
