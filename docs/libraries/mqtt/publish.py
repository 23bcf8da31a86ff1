import json, os, sys
import paho.mqtt.client as mqtt

request_id, customer_id = sys.argv[1:]
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
client.username_pw_set(os.environ["MQTT_USER"], os.environ["MQTT_PASSWORD"])
client.connect(os.environ["MQTT_HOST"], int(os.environ["MQTT_PORT"]))
client.loop_start()
body = json.dumps({"request_id": request_id, "customer_id": customer_id})
published = client.publish("trackfinity/unlock/request", body, qos=1)  # qos 0 is not confirmed
published.wait_for_publish(timeout=30)
if not published.is_published():
    sys.exit("RabbitMQ did not confirm it")
print(f"published {request_id}")
client.disconnect()
