//! The RabbitMQ that is hurt: one node, or a cluster.

use kit::{NodeOptions, RabbitCluster, RabbitNode};

/// What the broker was dead-lettering when it died is tried again after this time; three minutes by default.
const ADVANCED: &str = "[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 5000}]}].\n";

pub enum Broker {
    Node(Box<RabbitNode>),
    Cluster(RabbitCluster),
}

impl Broker {
    /// Of the `rabbitmq-server` on this machine, or of the image where `UNLOCKER_TEST_BROKER` is `docker`.
    pub async fn start(nodes: usize) -> Self {
        let is_docker = std::env::var("UNLOCKER_TEST_BROKER").is_ok_and(|kind| kind == "docker");
        match (nodes, is_docker) {
            // Where a container reads it. A local node has it already.
            (1, _) => {
                let options = NodeOptions::default().file("advanced.config", ADVANCED);
                Self::Node(Box::new(RabbitNode::start_own(options).await))
            }
            (_, false) => Self::Cluster(RabbitCluster::start(nodes).await),
            (_, true) => Self::Cluster(RabbitCluster::start_containers(nodes).await),
        }
    }

    pub fn nodes(&self) -> &[RabbitNode] {
        match self {
            Self::Node(node) => std::slice::from_ref(node),
            Self::Cluster(cluster) => cluster.nodes(),
        }
    }

    /// The node with this number, or the only one.
    pub fn node(&self, number: usize) -> &RabbitNode {
        &self.nodes()[number % self.nodes().len()]
    }

    /// The addresses of all nodes.
    pub fn urls(&self) -> Vec<String> {
        self.nodes().iter().map(|node| node.amqp_url("/")).collect()
    }
}
