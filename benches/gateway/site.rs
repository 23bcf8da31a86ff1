//! The broker, with the contract's topology and no worker.

use std::sync::Arc;
use std::time::Duration;

use kit::{Amqp, FieldTable, NodeOptions, RabbitNode, Vhost};
use lapin::Channel;
use lapin::options::{QueueDeclareOptions, QueuePurgeOptions};
use trackfinity_unlocker::broker::Topology;
use trackfinity_unlocker::settings::TopologyPrefix;

pub const EXCHANGE: &str = "trackfinity.unlock";
const REQUESTS: &str = "trackfinity.unlock.requests";

/// One broker for all turns.
pub struct Site {
    broker: Arc<RabbitNode>,
    vhost: Vhost,
    channel: Channel,
    _amqp: Amqp,
}

impl Site {
    pub async fn start() -> Self {
        // What was purged takes memory for a while; it must not block publishers.
        let options = NodeOptions::default().conf("vm_memory_high_watermark.relative = 0.7");
        let broker = Arc::new(RabbitNode::start_own(options).await);
        let vhost = broker.vhost().await;
        let amqp = Amqp::connect(vhost.amqp_url()).await;
        let channel = amqp.channel().await;
        let topology = Topology::new(&TopologyPrefix::parse(EXCHANGE).expect("a prefix"));
        topology.declare(amqp.connection()).await.expect("declared");
        Self { broker, vhost, channel, _amqp: amqp }
    }

    pub fn description(&self) -> String {
        self.broker.description()
    }

    pub fn amqp_url(&self) -> &str {
        self.vhost.amqp_url()
    }

    /// The broker's CPU time so far, if it can be measured.
    pub fn broker_cpu(&self) -> Option<Duration> {
        self.broker.cpu_time()
    }

    /// Requests in the queue.
    pub async fn waiting(&self) -> usize {
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let queue = self.channel.queue_declare(REQUESTS.into(), options, FieldTable::default()).await;
        queue.expect("the queue is there").message_count() as usize
    }

    /// Removes all requests from the queue; returns how many there were.
    pub async fn purge(&self) -> usize {
        let purged = self.channel.queue_purge(REQUESTS.into(), QueuePurgeOptions::default()).await;
        purged.expect("purged") as usize
    }
}
