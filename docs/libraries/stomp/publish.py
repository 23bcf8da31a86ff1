import json, os, queue, sys
import stomp

request_id, customer_id = sys.argv[1:]
answers = queue.SimpleQueue()


class Answers(stomp.ConnectionListener):
    def on_receipt(self, _):
        answers.put(None)

    def on_error(self, frame):
        answers.put(frame.headers["message"])


server = (os.environ["STOMP_HOST"], int(os.environ["STOMP_PORT"]))
connection = stomp.Connection12([server], vhost=os.environ["STOMP_VHOST"])
connection.set_listener("answers", Answers())
connection.connect(os.environ["STOMP_USER"], os.environ["STOMP_PASSWORD"], wait=True)
headers = {"amqp-message-id": request_id, "persistent": "true", "receipt": request_id}
body = json.dumps({"customer_id": customer_id})
connection.send("/exchange/trackfinity.unlock/request", body, content_type="application/json", headers=headers)
if fault := answers.get(timeout=30):  # None: the receipt came, so RabbitMQ has confirmed it
    sys.exit(fault)
print(f"published {request_id}")
connection.disconnect()
