"""Holds the events of an archive against Synapse's own code.

One JSON line an event comes in: version, room, id, redacted, event. What is wrong goes
out, a line each, and last how many events there were and whose signatures were checked.
Arguments: the server's name and its signing key file.
"""

import json
import sys

from signedjson.key import get_verify_key, read_signing_keys
from signedjson.sign import verify_signed_json
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.crypto.event_signing import check_event_content_hash
from synapse.events import make_event_from_dict
from synapse.events.utils import prune_event

server, path = sys.argv[1:]
with open(path) as f:
    keys = {"%s:%s" % (k.alg, k.version): get_verify_key(k) for k in read_signing_keys(f)}

events = signed = 0
for line in sys.stdin:
    x = json.loads(line)
    events += 1
    try:
        event = make_event_from_dict(x["event"], KNOWN_ROOM_VERSIONS[x["version"]])
        pruned = prune_event(event)
        if event.event_id != x["id"] or event.room_id != x["room"]:
            raise ValueError("it is %s in %s" % (event.event_id, event.room_id))
        whole = check_event_content_hash(event)
        if event.get_dict().get("content") != pruned.get_dict().get("content"):
            if x["redacted"]:
                raise ValueError("redacted, and its content is here")
            if not whole:
                raise ValueError("the content hash does not fit")
        if event.sender.split(":", 1)[1] == server:
            pdu = pruned.get_pdu_json()
            pdu.pop("unsigned", None)
            for name in event.signatures[server]:
                verify_signed_json(pdu, server, keys[name])
                signed += 1
    except Exception as e:  # every difference is the caller's finding
        print(json.dumps({"id": x["id"], "room": x["room"], "error": "%s: %s" % (type(e).__name__, e)}))
print(json.dumps({"events": events, "signed": signed}))
