"""The same request as a CloudEvent, with the official SDK: cloud_event.py CUSTOMER_ID"""

import json
import sys

from cloudevents.core.bindings.rabbitmq import to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from publish import ask


def main(customer_id: str) -> int:
    event = CloudEvent(
        attributes={"type": "com.example.customer.unlock", "source": "/shop", "datacontenttype": "application/json"},
        data={"customer_id": customer_id},
    )
    # Structured mode: the body is the whole event. The SDK has given it an id.
    message = to_structured(event, JSONFormat())
    outcome = ask(message.body, message.content_type, message_id=event.get_id())
    print(json.dumps(outcome))
    return 0 if outcome["status"] == "unlocked" else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
