"""What schemathesis cannot know from an OpenAPI document about the gateway."""

import datetime
import itertools

import schemathesis

numbers = itertools.count()
# What the longest name of a client leaves of an id.
MAX_KEY_LENGTH = 188


@schemathesis.serializer("application/x-ndjson")
def ndjson(ctx, value):
    """A batch is a text. Anything else stands for a batch without a line, which is refused."""
    return value.encode("utf-8", errors="surrogatepass") if isinstance(value, str) else b"\n"


@schemathesis.hook
def filter_headers(ctx, headers):
    """A structured event with a time of its own is accepted, whatever the header says."""
    time = (headers or {}).get("ce-expirytime") or "2036-11-23T10:00:00Z"
    try:
        return isinstance(datetime.datetime.fromisoformat(time), datetime.datetime)
    except (TypeError, ValueError):
        return False


@schemathesis.hook
def before_call(ctx, case, kwargs):
    """A key belongs to one request: with another body it is rightly refused."""
    headers = case.headers
    for name in headers or ():
        key = headers[name]
        if name.lower() in ("idempotency-key", "webhook-id") and isinstance(key, str) and key:
            quote = '"' if key.startswith('"') else ""
            number = f"{quote}{next(numbers)}-"
            # The longest keys stay as long as they are.
            rest = key[len(quote):] if len(key) + 8 <= MAX_KEY_LENGTH else key[len(number):]
            headers[name] = number + rest
