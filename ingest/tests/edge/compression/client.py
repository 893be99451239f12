"""Opens sockets that compress, sends a long message on each, and tells how long the next two messages are.

usage: python client.py URL        needs: pip install websockets
"""

import asyncio
import json
import sys

from websockets.asyncio.client import connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

OFFERS = [
    ClientPerMessageDeflateFactory(),
    ClientPerMessageDeflateFactory(client_max_window_bits=9),
    ClientPerMessageDeflateFactory(server_max_window_bits=9, client_max_window_bits=True),
    ClientPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True),
]


async def main(url):
    sockets = []
    for offer in OFFERS:
        socket = await connect(url, compression=None, extensions=[offer])
        assert [e.name for e in socket.protocol.extensions] == ["permessage-deflate"], "not agreed on"
        await socket.send(json.dumps({"action": "send", "message": "message " * 4000}))
        assert json.loads(await socket.recv())["type"] == "ack"
        sockets.append(socket)
    print(len(sockets), "opened", flush=True)
    for socket in sockets:
        print(len(await socket.recv()), len(await socket.recv()), flush=True)
        await socket.close()


asyncio.run(main(sys.argv[1]))
