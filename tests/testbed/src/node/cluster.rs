//! Nodes of one cluster on this machine.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::container_member;
use super::docker::DockerNode;
use super::local::{LocalNode, Member};
use super::{Kind, NodeOptions, RabbitNode, find, on_node_runtime, say};

const FORMED_WITHIN: Duration = Duration::from_secs(90);

/// What a leader was dead-lettering when it died is tried again after this time; three minutes by default.
const ADVANCED: &str = "[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 5000}]}].\n";

/// A cluster of nodes, for a test to hurt.
pub struct RabbitCluster {
    nodes: Vec<RabbitNode>,
}

impl RabbitCluster {
    /// Starts this many nodes and waits until they form a cluster. It always takes the `rabbitmq-server` of this
    /// machine, also where other tests run in Docker.
    ///
    /// # Panics
    /// When there is no `rabbitmq-server` on this machine, or the cluster is not formed in time.
    pub async fn start(size: usize) -> Self {
        Self::formed(size, "local nodes", async move { Self::launch(size).await }).await
    }

    /// The same with containers.
    ///
    /// # Panics
    /// When no Docker engine has the image, or the cluster is not formed in time.
    pub async fn start_containers(size: usize) -> Self {
        Self::formed(size, "containers", async move { Self::launch_containers(size).await }).await
    }

    async fn formed(
        size: usize,
        kind: &str,
        launch: impl Future<Output = Result<Self, String>> + Send + 'static,
    ) -> Self {
        let cluster = on_node_runtime(launch).await.unwrap_or_else(|error| {
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
        say(&format!("own cluster: {size} {kind}"));
        cluster
    }

    async fn launch(size: usize) -> Result<Self, String> {
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos());
        let name = |n: usize| format!("kit{n}@localhost");
        let options = options((1..=size).map(name));
        let mut nodes: Vec<RabbitNode> = Vec::new();
        let mut epmd_port = None;
        for n in 1..=size {
            let member = Member { name: name(n), cookie: format!("KIT{nanos}"), epmd_port };
            let node = LocalNode::start_as(Some(&member), &options)?;
            epmd_port = Some(node.epmd_port());
            let (amqp, management) = (node.amqp_port, node.management_port);
            nodes.push(find::on_ports(Kind::Local(node), amqp, management, true));
        }
        Self::up(nodes).await
    }

    async fn launch_containers(size: usize) -> Result<Self, String> {
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos());
        let network = format!("kit-{}-{nanos}", std::process::id());
        let member = |n: usize| container_member::Member {
            name: format!("{network}-{n}"),
            network: network.clone(),
            cookie: format!("KIT{nanos}"),
        };
        let options = options((1..=size).map(|n| member(n).node())).file("advanced.config", ADVANCED);
        let mut nodes: Vec<RabbitNode> = Vec::new();
        for n in 1..=size {
            let node = DockerNode::start_as(Some(&member(n)), &options).await?;
            let (amqp, management) = (node.amqp_port, node.management_port);
            nodes.push(find::on_ports(Kind::Docker(node), amqp, management, true));
        }
        Self::up(nodes).await
    }

    async fn up(nodes: Vec<RabbitNode>) -> Result<Self, String> {
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
        let named = self.nodes.iter().find(|node| match &node.kind {
            Kind::Local(node) => node.name() == name,
            Kind::Docker(node) => node.name() == name,
            Kind::Given => false,
        });
        named.unwrap_or_else(|| panic!("no node {name}"))
    }

    /// The addresses of all nodes, as `broker.url` takes them.
    pub fn amqp_urls(&self, vhost: &str) -> Vec<String> {
        self.nodes.iter().map(|node| node.amqp_url(vhost)).collect()
    }
}

/// Of each node: who the others are.
fn options(names: impl Iterator<Item = String>) -> NodeOptions {
    let mut conf = String::from(
        "cluster_formation.peer_discovery_backend = classic_config\n\
         queue_leader_locator = balanced\n",
    );
    for (n, name) in (1..).zip(names) {
        conf += &format!("cluster_formation.classic_config.nodes.{n} = {name}\n");
    }
    NodeOptions { conf, ..NodeOptions::default() }
}
