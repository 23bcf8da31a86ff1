//! Both kinds of node, whatever the environment prefers.

use std::time::{Duration, Instant};

use lapin::BasicProperties;
use lapin::types::AMQPValue;
use tokio::time::timeout;

use super::docker::DockerNode;
use super::local::LocalNode;
use super::{NodeOptions, RabbitCluster, RabbitNode, connects, find, greets, on_node_runtime, say};
use crate::{Amqp, eventually};

async fn local() -> RabbitNode {
    let began = Instant::now();
    let options = NodeOptions::default().conf("consumer_timeout = 12345");
    let node = on_node_runtime(async move { find::local(&options, true).await }).await.expect("a local node");
    eprintln!("a local node was up after {:?}", began.elapsed());
    node
}

async fn docker() -> RabbitNode {
    let began = Instant::now();
    let options = NodeOptions::default().conf("consumer_timeout = 12345");
    let node = on_node_runtime(async move { find::docker(&options, true).await }).await.expect("a container");
    eprintln!("a container was up after {:?}", began.elapsed());
    node
}

async fn is_hurt_and_heals(node: RabbitNode) {
    let timeout_set = node.rabbitmqctl(&["eval", "application:get_env(rabbit, consumer_timeout)."]).await;
    assert_eq!(timeout_set.as_deref().map(str::trim), Ok("{ok,12345}"));
    assert!(node.rabbitmqctl(&["no_such_command"]).await.is_err());

    let vhost = node.vhost().await;
    let amqp = Amqp::connect(vhost.amqp_url()).await;
    amqp.declare_queue("kept", Default::default()).await;
    let persistent = BasicProperties::default().with_delivery_mode(2);
    amqp.publish("", "kept", persistent, b"still here").await;

    // A node that has started has worked for seconds. An engine on another machine hides how long.
    let worked = node.cpu_time();
    assert!(worked.is_none_or(|worked| worked > Duration::from_secs(1)), "{worked:?}");

    node.freeze().await;
    let frozen = timeout(Duration::from_millis(500), amqp.channel()).await;
    assert!(frozen.is_err(), "a frozen broker opened a channel");
    node.thaw().await;
    assert_eq!(amqp.ready_count("kept").await, 1);

    node.memory_alarm(true).await;
    let blocked = timeout(
        Duration::from_millis(700),
        amqp.try_publish("", "kept", BasicProperties::default(), b"blocked"),
    );
    assert!(blocked.await.is_err(), "a publish passed under the alarm");
    node.memory_alarm(false).await;
    drop(amqp);

    let amqp = Amqp::connect(vhost.amqp_url()).await;
    node.close_all_connections().await;
    let soon = Duration::from_secs(5);
    eventually("the connection is closed", soon, async || !amqp.connection().status().connected()).await;

    let began = Instant::now();
    node.kill().await;
    assert!(connects(vhost.amqp_url()).await.is_err());
    node.restart().await;
    eprintln!("back after {:?}", began.elapsed());
    let amqp = Amqp::connect(vhost.amqp_url()).await;
    let kept = amqp.drain("kept").await;
    assert_eq!(kept[0].body, b"still here");

    let (host, port) = node.address();
    drop(node);
    assert!(!greets(&host, port).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_node_can_be_hurt_and_heals() {
    if !LocalNode::is_installed() {
        say("not tested: no rabbitmq-server on this machine");
        return;
    }
    is_hurt_and_heals(local().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_can_be_hurt_and_heals() {
    if let Err(error) = on_node_runtime(async { DockerNode::look_for_image().await }).await {
        say(&format!("not tested: {error}"));
        return;
    }
    is_hurt_and_heals(docker().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_containers_keeps_a_message_while_any_node_is_dead() {
    if let Err(error) = on_node_runtime(async { DockerNode::look_for_image().await }).await {
        say(&format!("not tested: {error}"));
        return;
    }
    let cluster = RabbitCluster::start_containers(3).await;
    let quorum = [("x-queue-type".into(), AMQPValue::LongString("quorum".into()))];
    let amqp = Amqp::connect(&cluster.nodes()[0].amqp_url("/")).await;
    amqp.declare_queue("kept", std::collections::BTreeMap::from(quorum).into()).await;
    let persistent = BasicProperties::default().with_delivery_mode(2);
    amqp.publish("", "kept", persistent, b"still here").await;
    drop(amqp);
    for (n, node) in cluster.nodes().iter().enumerate() {
        node.kill().await;
        let amqp = Amqp::connect(&cluster.nodes()[(n + 1) % 3].amqp_url("/")).await;
        let is_there = async || amqp.ready_count("kept").await == 1;
        eventually("the message is seen", Duration::from_secs(30), is_there).await;
        node.restart().await;
    }
}
