import json, os, threading
import stomp

seen = set()  # in production a table
server = (os.environ["STOMP_HOST"], int(os.environ["STOMP_PORT"]))
connection = stomp.Connection12([server], vhost=os.environ["STOMP_VHOST"])
lost = threading.Event()


class Outcomes(stomp.ConnectionListener):
    def on_message(self, frame):
        if frame.headers["amqp-message-id"] not in seen:
            outcome = json.loads(frame.body)
            print(outcome["request_id"], outcome["status"], flush=True)
            seen.add(frame.headers["amqp-message-id"])
        connection.ack(frame.headers["ack"])

    def on_disconnected(self):
        lost.set()


connection.set_listener("outcomes", Outcomes())
connection.connect(os.environ["STOMP_USER"], os.environ["STOMP_PASSWORD"], wait=True)
queue = {"x-queue-name": "trackfinity.outcomes.shop", "x-queue-type": "quorum", "durable": "true"}
options = {"auto-delete": "false", "exclusive": "false", "prefetch-count": "10"}
results = "/exchange/trackfinity.unlock.results/unlock.#"
connection.subscribe(results, id="outcomes", ack="client-individual", headers=queue | options)
lost.wait()
