import json, os, subprocess
import pika, pytest

AMQP_URL = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2f")
PREFIX = "shop.test"  # exchanges and queues of its own


@pytest.fixture(scope="session", autouse=True)
def unlocker():
    command = ["unlocker", "dev", "--broker", AMQP_URL, "--prefix", PREFIX, "--slow", "1s", "--quiet"]
    command += ["--start-timeout", "10s"]  # then it says why it is not ready, and ends
    environment = os.environ | {"UNLOCKER__OPS__LISTEN": ""}  # no port, so that several can run at once
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("ready: ")
        yield
        process.terminate()


@pytest.fixture
def channel():
    connection = pika.BlockingConnection(pika.URLParameters(AMQP_URL))
    yield connection.channel()
    connection.close()


def unlock(channel, customer_id):
    """Put your own service here."""
    outcomes = []
    reply_to = "amq.rabbitmq.reply-to"
    channel.basic_consume(reply_to, lambda *reply: outcomes.append(json.loads(reply[-1])), auto_ack=True)
    properties = pika.BasicProperties(content_type="application/json", reply_to=reply_to)
    channel.basic_publish(PREFIX, "request", json.dumps({"customer_id": customer_id}), properties)
    channel.connection.process_data_events(time_limit=20)
    return outcomes[0]


def test_a_customer_is_unlocked(channel):
    assert unlock(channel, 191)["status"] == "unlocked"


@pytest.mark.parametrize(
    "customer_id, status, reason",
    [
        ("refused-1", "refused", "http_404"),
        ("failing-1", "abandoned", "http_503"),
        ("flaky-1", "unlocked", None),
        ("slow-1", "unlocked", None),
        ("", "invalid", "no_identifier"),
    ],
)
def test_each_outcome_is_handled(channel, customer_id, status, reason):
    outcome = unlock(channel, customer_id)
    assert (outcome["status"], outcome["reason"]) == (status, reason)
