"""Tells schemathesis how to write the one body that is not JSON (a batch, a batch that is cut short, or any bytes),
and what becomes of a request that is too long to reach the API."""

from pathlib import Path

import schemathesis
from hypothesis import strategies

MEDIA_TYPE = "application/vnd.sumu.push.v2+postcard"
MAX_URL = 65_534  # bytes; a longer one gets an empty 400, before anything looks at it

golden = Path(__file__).parent.parent / "golden" / "push-request.hex"
batch = bytes.fromhex(golden.read_text())
batches = strategies.one_of(
    strategies.just(batch),
    strategies.integers(0, len(batch) - 1).map(lambda length: batch[:length]),
    strategies.binary(max_size=64),
)
schemathesis.openapi.media_type(MEDIA_TYPE, batches)


@schemathesis.hook
def filter_failure(_context, _failure, _case, response):
    too_long = len(response.request.url) > MAX_URL
    return not (too_long and response.status_code == 400 and not response.content)


@schemathesis.serializer(MEDIA_TYPE)
def as_it_is(_context, value):
    return value if isinstance(value, bytes) else str(value).encode()
