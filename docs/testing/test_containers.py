import pika, pytest
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network
from testcontainers.core.wait_strategies import LogMessageWaitStrategy


@pytest.fixture(scope="session")
def amqp_url():
    with Network() as network:
        rabbitmq = DockerContainer("rabbitmq:4.0-management").with_network(network).with_network_aliases("rabbitmq")
        rabbitmq.with_exposed_ports(5672).waiting_for(LogMessageWaitStrategy("Server startup complete"))
        unlocker = DockerContainer("trackfinity-unlocker:0.1.0").with_network(network)
        unlocker.with_command("dev --broker amqp://guest:guest@rabbitmq").waiting_for(LogMessageWaitStrategy("ready: "))
        with rabbitmq, unlocker:
            yield f"amqp://guest:guest@{rabbitmq.get_container_host_ip()}:{rabbitmq.get_exposed_port(5672)}"


def test_the_shop_can_publish(amqp_url):
    channel = pika.BlockingConnection(pika.URLParameters(amqp_url)).channel()
    channel.confirm_delivery()
    properties = pika.BasicProperties(message_id="m-1", content_type="application/json")
    channel.basic_publish("trackfinity.unlock", "request", '{"customer_id":"refused-1"}', properties, mandatory=True)
