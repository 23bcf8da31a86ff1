import json, os
import paho.mqtt.client as mqtt

seen = set()  # in production a table


def subscribe(client, *_):
    client.subscribe("unlock/#", qos=1)


def handle(client, _, message):
    outcome = json.loads(message.payload)
    key = (outcome["request_id"], outcome["replays"])  # MQTT shows no message_id
    if key not in seen:
        print(outcome["request_id"], outcome["status"], flush=True)
        seen.add(key)
    client.ack(message.mid, message.qos)


# With its own id and clean_session=False, RabbitMQ keeps the queue while the client is away.
client = mqtt.Client(
    mqtt.CallbackAPIVersion.VERSION2, client_id="shop-outcomes", clean_session=False, manual_ack=True
)
client.username_pw_set(os.environ["MQTT_USER"], os.environ["MQTT_PASSWORD"])
client.on_connect, client.on_message = subscribe, handle
client.connect(os.environ["MQTT_HOST"], int(os.environ["MQTT_PORT"]))
client.loop_forever()
