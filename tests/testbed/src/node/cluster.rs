//! Nodes of one cluster on this machine.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::local::{LocalNode, Member};
use super::{Kind, NodeOptions, RabbitNode, find, on_node_runtime, say};

const FORMED_WITHIN: Duration = Duration::from_secs(90);

/// A cluster of local nodes, for a test to hurt. It always takes the `rabbitmq-server` of this machine, also where
/// other tests run in Docker.
pub struct RabbitCluster {
    nodes: Vec<RabbitNode>,
}

impl RabbitCluster {
    /// Starts this many nodes and waits until they form a cluster.
    ///
    /// # Panics
    /// When there is no `rabbitmq-server` on this machine, or the cluster is not formed in time.
    pub async fn start(size: usize) -> Self {
        let cluster =
            on_node_runtime(async move { Self::launch(size).await }).await.unwrap_or_else(|error| {
                panic!("no cluster: {error}; scripts/get-broker --local gets what it needs")
            });
        crate::eventually("the cluster is formed", FORMED_WITHIN, async || {
            for node in &cluster.nodes {
                let seen = node.management("/").get("/api/nodes").await?;
                let running = seen.as_array().into_iter().flatten().filter(|other| other["running"] == true);
                let running = running.count();
                if running != size {
                    return Err(format!("{running} of {size} run"));
                }
            }
            Ok(())
        })
        .await;
        say(&format!("own cluster: {size} local nodes"));
        cluster
    }

    async fn launch(size: usize) -> Result<Self, String> {
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos());
        let name = |n: usize| format!("kit{n}@localhost");
        let mut conf = String::from(
            "cluster_formation.peer_discovery_backend = classic_config\n\
             queue_leader_locator = balanced\n",
        );
        for n in 1..=size {
            conf += &format!("cluster_formation.classic_config.nodes.{n} = {}\n", name(n));
        }
        let options = NodeOptions { conf, ..NodeOptions::default() };
        let mut nodes: Vec<RabbitNode> = Vec::new();
        let mut epmd_port = None;
        for n in 1..=size {
            let member = Member { name: name(n), cookie: format!("KIT{nanos}"), epmd_port };
            let node = LocalNode::start_as(Some(&member), &options)?;
            epmd_port = Some(node.epmd_port());
            let (amqp, management) = (node.amqp_port, node.management_port);
            nodes.push(find::on_ports(Kind::Local(node), amqp, management, true));
        }
        for node in &nodes {
            node.wait_until_up().await?;
        }
        Ok(Self { nodes })
    }

    pub fn nodes(&self) -> &[RabbitNode] {
        &self.nodes
    }

    /// The node with Erlang's name for it, such as `kit1@localhost`.
    ///
    /// # Panics
    /// When there is none.
    pub fn node(&self, name: &str) -> &RabbitNode {
        let named =
            self.nodes.iter().find(|node| matches!(&node.kind, Kind::Local(local) if local.name() == name));
        named.unwrap_or_else(|| panic!("no node {name}"))
    }

    /// The addresses of all nodes, as `broker.url` takes them.
    pub fn amqp_urls(&self, vhost: &str) -> Vec<String> {
        self.nodes.iter().map(|node| node.amqp_url(vhost)).collect()
    }
}
