//! Which faults there are, and which come next.

use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Broker,
    /// One of our processes, by its place in the crew.
    Process(usize),
    Trackfinity,
    /// A listener's queue.
    Listener,
    /// What senders publish.
    Requests,
    /// Where traces and metrics go.
    Collector,
    Everything,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    KillBroker,
    FreezeBroker,
    MemoryAlarm,
    DiskAlarm,
    CloseAllConnections,
    MoveLeaders,
    DeliveryLimit,
    ShortRetries,
    BacklogLimit,
    Retention,
    Kill,
    Freeze,
    Cut,
    HalfOpen,
    LoseToBroker,
    LoseFromBroker,
    Delay,
    Stop,
    ClockJump,
    JoinOrLeave,
    WrongKey,
    CutTrackfinity,
    HalfOpenTrackfinity,
    DelayTrackfinity,
    FillListener,
    SuspendListener,
    BadIds,
    SlowCollector,
    HungCollector,
    RollingRestart,
}

const KINDS: [Kind; 30] = [
    Kind::KillBroker,
    Kind::FreezeBroker,
    Kind::MemoryAlarm,
    Kind::DiskAlarm,
    Kind::CloseAllConnections,
    Kind::MoveLeaders,
    Kind::DeliveryLimit,
    Kind::ShortRetries,
    Kind::BacklogLimit,
    Kind::Retention,
    Kind::Kill,
    Kind::Freeze,
    Kind::Cut,
    Kind::HalfOpen,
    Kind::LoseToBroker,
    Kind::LoseFromBroker,
    Kind::Delay,
    Kind::Stop,
    Kind::ClockJump,
    Kind::JoinOrLeave,
    Kind::WrongKey,
    Kind::CutTrackfinity,
    Kind::HalfOpenTrackfinity,
    Kind::DelayTrackfinity,
    Kind::FillListener,
    Kind::SuspendListener,
    Kind::BadIds,
    Kind::SlowCollector,
    Kind::HungCollector,
    Kind::RollingRestart,
];

/// By how many seconds a clock jumps: less and more than heartbeats, timeouts, and what a poll allows.
const JUMPS: [i64; 8] = [-3_600, -90, -20, -3, 3, 20, 90, 3_600];

#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub kind: Kind,
    pub target: Target,
    pub lasts: Duration,
    /// Of a clock, in seconds.
    pub jump: i64,
    /// Which of the broker's nodes.
    pub node: usize,
}

impl Plan {
    /// Drawn whole beforehand: what happens in the world must not change what is drawn.
    pub fn draw(deck: &mut Vec<Kind>, rng: &mut Rng) -> Self {
        if deck.is_empty() {
            deck.extend(KINDS);
            rng.shuffle(deck);
        }
        let kind = deck.pop().expect("a deck was just made");
        // Workers more often than the gateway, and the console now and then.
        let process = Target::Process([0, 0, 0, 1, 1, 1, 2, 2, 2, 3][rng.usize(..10)]);
        let with_clock = Target::Process(rng.usize(..3));
        let (target, milliseconds): (Target, Range<u64>) = match kind {
            Kind::KillBroker => (Target::Broker, 200..3_000),
            Kind::FreezeBroker => (Target::Broker, 1_000..12_000),
            Kind::MemoryAlarm | Kind::DiskAlarm => (Target::Broker, 1_000..6_000),
            Kind::CloseAllConnections | Kind::MoveLeaders => (Target::Broker, 0..1),
            Kind::DeliveryLimit | Kind::ShortRetries | Kind::BacklogLimit | Kind::Retention => {
                (Target::Broker, 3_000..8_000)
            }
            Kind::Kill => (process, 0..2_500),
            Kind::Freeze => (process, 1_000..12_000),
            Kind::Cut => (process, 0..4_000),
            Kind::HalfOpen | Kind::LoseToBroker | Kind::LoseFromBroker => (process, 2_000..10_000),
            Kind::Delay => (process, 2_000..8_000),
            Kind::Stop => (process, 0..2_000),
            Kind::ClockJump => (with_clock, 2_000..8_000),
            Kind::JoinOrLeave => (Target::Process(1), 0..1),
            Kind::WrongKey => (Target::Trackfinity, 2_500..7_000),
            Kind::CutTrackfinity => (Target::Trackfinity, 0..4_000),
            Kind::HalfOpenTrackfinity | Kind::DelayTrackfinity => (Target::Trackfinity, 1_000..6_000),
            Kind::FillListener | Kind::SuspendListener => (Target::Listener, 2_000..10_000),
            Kind::BadIds => (Target::Requests, 0..1_500),
            Kind::SlowCollector | Kind::HungCollector => (Target::Collector, 5_000..15_000),
            Kind::RollingRestart => (Target::Everything, 0..1_000),
        };
        let lasts = Duration::from_millis(rng.u64(milliseconds));
        Self { kind, target, lasts, jump: JUMPS[rng.usize(..JUMPS.len())], node: rng.usize(..) }
    }

    /// How long bytes take longer: far less than what waits for them.
    pub fn delay(&self) -> Duration {
        self.lasts / 20
    }
}
