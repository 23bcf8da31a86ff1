//! Where a node comes from.

use std::env;

use url::Url;

use super::docker::DockerNode;
use super::local::LocalNode;
use super::{Kind, NodeOptions, RabbitNode, connects};

const WAYS: &str = "set UNLOCKER_TEST_AMQP_URL to a running broker with the management plugin, \
     start a Docker engine that holds or can pull the image, or run scripts/get-broker";

fn setting(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

#[derive(Clone, Copy, PartialEq)]
enum Forced {
    Local,
    Docker,
}

fn forced() -> Result<Option<Forced>, String> {
    match setting("UNLOCKER_TEST_BROKER").as_deref() {
        None => Ok(None),
        Some("local") => Ok(Some(Forced::Local)),
        Some("docker") => Ok(Some(Forced::Docker)),
        Some(other) => Err(format!("UNLOCKER_TEST_BROKER is {other:?}, not \"local\" or \"docker\"")),
    }
}

pub(super) async fn shared() -> Result<RabbitNode, String> {
    let options = NodeOptions::default();
    match forced()? {
        Some(Forced::Local) => local(&options, false).await,
        Some(Forced::Docker) => docker(&options, false).await,
        None => {
            if let Some(url) = setting("UNLOCKER_TEST_AMQP_URL") {
                return given(&url).await;
            }
            match docker(&options, false).await {
                Err(error) if setting("UNLOCKER_TEST_RABBITMQ_IMAGE").is_none() => local(&options, false)
                    .await
                    .map_err(|local| format!("no RabbitMQ: {error}; {local}; {WAYS}")),
                found => found,
            }
        }
    }
}

pub(super) async fn own(options: NodeOptions) -> Result<RabbitNode, String> {
    if options.needs_local {
        return local(&options, true).await;
    }
    match forced()? {
        Some(Forced::Local) => local(&options, true).await,
        Some(Forced::Docker) => docker(&options, true).await,
        None if setting("UNLOCKER_TEST_RABBITMQ_IMAGE").is_none() && LocalNode::is_installed() => {
            local(&options, true).await
        }
        None => {
            docker(&options, true).await.map_err(|error| format!("no RabbitMQ of one's own: {error}; {WAYS}"))
        }
    }
}

async fn given(amqp: &str) -> Result<RabbitNode, String> {
    let amqp = Url::parse(amqp).map_err(|error| format!("UNLOCKER_TEST_AMQP_URL: {error}"))?;
    let management = match setting("UNLOCKER_TEST_MANAGEMENT_URL") {
        Some(url) => Url::parse(&url).map_err(|error| format!("UNLOCKER_TEST_MANAGEMENT_URL: {error}"))?,
        None => {
            management_url(amqp.host_str().unwrap_or("127.0.0.1"), 15672, amqp.username(), amqp.password())
        }
    };
    let node = RabbitNode { kind: Kind::Given, amqp, management, own: false };
    connects(&node.amqp_url("/")).await.map_err(|error| format!("UNLOCKER_TEST_AMQP_URL: {error}"))?;
    node.management("/")
        .get("/api/vhosts")
        .await
        .map_err(|error| format!("UNLOCKER_TEST_MANAGEMENT_URL: {error}"))?;
    Ok(node)
}

pub(super) async fn docker(options: &NodeOptions, own: bool) -> Result<RabbitNode, String> {
    let node = DockerNode::start_as(None, options).await?;
    let (amqp, management) = (node.amqp_port, node.management_port);
    up(Kind::Docker(node), amqp, management, own).await
}

pub(super) async fn local(options: &NodeOptions, own: bool) -> Result<RabbitNode, String> {
    let node = LocalNode::start(options)?;
    let (amqp, management) = (node.amqp_port, node.management_port);
    up(Kind::Local(node), amqp, management, own).await
}

async fn up(kind: Kind, amqp_port: u16, management_port: u16, own: bool) -> Result<RabbitNode, String> {
    let node = on_ports(kind, amqp_port, management_port, own);
    node.wait_until_up().await?;
    Ok(node)
}

/// A node that may still be starting.
pub(super) fn on_ports(kind: Kind, amqp_port: u16, management_port: u16, own: bool) -> RabbitNode {
    let amqp = Url::parse(&format!("amqp://guest:guest@127.0.0.1:{amqp_port}")).expect("a valid URL");
    let management = management_url("127.0.0.1", management_port, "guest", Some("guest"));
    RabbitNode { kind, amqp, management, own }
}

fn management_url(host: &str, port: u16, user: &str, password: Option<&str>) -> Url {
    let (user, password) = if user.is_empty() { ("guest", "guest") } else { (user, password.unwrap_or("")) };
    // Both are percent-encoded already.
    Url::parse(&format!("http://{user}:{password}@{host}:{port}")).expect("parts of a valid URL")
}
