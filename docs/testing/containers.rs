use lapin::{
    BasicProperties, Confirmation, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use testcontainers::{
    GenericImage, ImageExt,
    core::{IntoContainerPort, WaitFor},
    runners::AsyncRunner,
};

#[tokio::test]
#[ignore = "needs the image: make image"]
async fn the_shop_can_publish() -> Result<(), Box<dyn std::error::Error>> {
    let rabbitmq = GenericImage::new("rabbitmq", "4.0-management")
        .with_exposed_port(5672.tcp())
        .with_wait_for(WaitFor::message_on_stdout("Server startup complete"))
        .with_network("shop-test")
        .with_container_name("shop-test-rabbitmq")
        .start()
        .await?;
    let _unlocker = GenericImage::new("trackfinity-unlocker", "0.1.0")
        .with_wait_for(WaitFor::message_on_stdout("ready: "))
        .with_network("shop-test")
        .with_cmd(["dev", "--broker", "amqp://guest:guest@shop-test-rabbitmq"])
        .start()
        .await?;

    let (host, port) = (rabbitmq.get_host().await?, rabbitmq.get_host_port_ipv4(5672).await?);
    let url = format!("amqp://guest:guest@{host}:{port}");
    let channel = Connection::connect(&url, ConnectionProperties::default()).await?.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let properties =
        BasicProperties::default().with_message_id("m-1".into()).with_content_type("application/json".into());
    let request = br#"{"customer_id":"refused-1"}"#;
    let sent = channel
        .basic_publish("trackfinity.unlock".into(), "request".into(), options, request, properties)
        .await?;
    assert!(matches!(sent.await?, Confirmation::Ack(None)));
    Ok(())
}
