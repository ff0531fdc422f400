"""Asks Synapse's own code about each event of the corpus: one JSON line in, one out."""

import hashlib
import json
import sys

from canonicaljson import encode_canonical_json
from signedjson.key import decode_signing_key_base64, get_verify_key
from signedjson.sign import verify_signed_json
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.crypto.event_signing import check_event_content_hash, compute_content_hash, compute_event_reference_hash
from synapse.events import make_event_from_dict
from synapse.events.utils import prune_event
from unpaddedbase64 import encode_base64

key = get_verify_key(decode_signing_key_base64("ed25519", "a_test", encode_base64(bytes(range(32)))))

for line in sys.stdin:
    vector = json.loads(line)
    out = {}
    try:
        version = KNOWN_ROOM_VERSIONS[vector["room_version"]]
        event = make_event_from_dict(vector["event"], version)
        pruned = prune_event(event)
        redacted = pruned.get_pdu_json()
        redacted.pop("unsigned", None)
        out["EventID"] = event.event_id
        out["RoomID"] = event.room_id
        out["ContentHash"] = encode_base64(compute_content_hash(event.get_pdu_json(), hashlib.sha256)[1])
        out["ContentOK"] = check_event_content_hash(event)
        out["Redacted"] = encode_canonical_json(redacted).decode()
        # The id again, by the function that an archive's checker would write.
        name, digest = compute_event_reference_hash(event)
        if vector["room_version"] not in ("1", "2"):
            spelled = encode_base64(digest, urlsafe=vector["room_version"] != "3")
            if "$" + spelled != event.event_id:
                out["Error"] = "reference hash %s, id %s" % (spelled, event.event_id)
        verify_signed_json(redacted, "example.org", key)
        out["SignatureOK"] = True
    except Exception as e:  # every difference is the caller's finding
        out["Error"] = "%s: %s" % (type(e).__name__, e)
    print(json.dumps(out), flush=True)
