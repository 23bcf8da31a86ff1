"""Sends a request as a webhook, signed by Standard Webhooks' own library: webhook.py CUSTOMER_ID

GATEWAY_URL is the gateway's address, such as http://127.0.0.1:8080; WEBHOOK_SECRET the signing secret, whsec_….
Exit code: 0 taken, 1 not.
"""

import json
import os
import sys
import time
import uuid
from datetime import datetime, timezone

import httpx
from standardwebhooks import Webhook

ATTEMPTS = 8


def main(customer_id: str) -> int:
    webhook = Webhook(os.environ["WEBHOOK_SECRET"])
    # Sign these bytes and send these bytes: JSON that is written again may differ.
    body = json.dumps({"customer_id": customer_id})
    message_id = f"msg_{uuid.uuid4().hex}"  # the same for all attempts: the key of the request
    for attempt in range(1, ATTEMPTS + 1):
        now = datetime.now(timezone.utc)  # anew for each attempt: a signature is valid for five minutes
        headers = {
            "content-type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": webhook.sign(message_id, now, body),
        }
        delay = min(2 ** (attempt - 1), 30)
        try:
            response = httpx.post(f"{os.environ['GATEWAY_URL']}/v1/unlocks", content=body, headers=headers, timeout=20)
            if response.status_code not in (408, 429) and response.status_code < 500:
                print(response.text)
                return 0 if response.is_success else 1
            print(f"answered {response.status_code}: {response.text}", file=sys.stderr)
            if (seconds := response.headers.get("retry-after", "")).isdecimal():
                delay = int(seconds)
        except httpx.TransportError as error:
            print(f"no answer: {error!r}", file=sys.stderr)
        if attempt < ATTEMPTS:
            time.sleep(delay)
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
