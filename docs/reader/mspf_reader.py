#!/usr/bin/env python3
"""Reads a migration archive (docs/format-mspf.md) with nothing but Python's standard library.

    mspf_reader.py list ARCHIVE           items, counts, restore point, what is not carried
    mspf_reader.py check ARCHIVE          everything that can be checked without knowing Matrix
    mspf_reader.py room ARCHIVE ROOM_ID   a room as text

ARCHIVE is a directory or a tar, plain or .gz; .zst from Python 3.14 on. Encrypted ones are
opened with age before: age -d -i KEY archive.tar.gz.age > archive.tar.gz
Exit status: 0 done, 1 the archive is broken, 2 usage.
"""

import datetime
import hashlib
import json
import os
import re
import struct
import sys
import tarfile

# rank, item, file, form (format-mspf.md, section 4)
TABLE = [row.split() for row in """1 m.core m.core.json json; 2 im.lifeboat.archive im.lifeboat.archive.json json; 3 im.lifeboat.server im.lifeboat.server.json json;
4 m.rooms m.rooms.cbor map; 5 im.lifeboat.rooms im.lifeboat.rooms/rooms.N.cbor map;
6 im.lifeboat.room_state im.lifeboat.room_state/room_state.N.cbor lists; 7 im.lifeboat.invites im.lifeboat.invites/invites.N.cbor lists;
8 m.events m.events/events.N.cbor lists; 8 im.lifeboat.event_meta im.lifeboat.event_meta/event_meta.N.cbor lists;
8 im.lifeboat.raw_events im.lifeboat.raw_events/raw_events.N.cbor map; 9 m.users m.users/users.N.cbor map;
10 im.lifeboat.users im.lifeboat.users/users.N.cbor map; 11 m.e2e.keys m.e2e/keys.N.cbor map; 12 m.e2e.to_device m.e2e/to_device.N.cbor map;
13 im.lifeboat.synapse im.lifeboat.synapse/schema.json json; 14 im.lifeboat.synapse im.lifeboat.synapse/rows.N.cbor lists;
15 im.lifeboat.report im.lifeboat.report.json json; 17 im.lifeboat.integrity im.lifeboat.integrity.json json""".split(";")]
FOREIGN = 16  # where a directory has the files of items that are passed over
MANIFEST, INTEGRITY, LAYOUT = "manifest.mspf.json", "im.lifeboat.integrity.json", "im.lifeboat.layout"
MAX_FILE, MAX_DEPTH = 256 << 20, 128

class Broken(Exception):
    """The archive is not what the format says."""

class Cbor:
    """A strict reader of deterministic CBOR; it gives one value after the other."""
    def __init__(self, data):
        self.data, self.at = data, 0
    def take(self, n):
        if n > len(self.data) - self.at:
            raise Broken("the file ends inside a value")
        self.at += n
        return self.data[self.at - n : self.at]
    def head(self):
        first = self.take(1)[0]
        major, info = first >> 5, first & 31
        if info < 24:
            return major, info, info
        if info > 27:
            raise Broken("an indefinite length")
        size = 1 << (info - 24)
        n = int.from_bytes(self.take(size), "big")
        if major != 7 and n < (24, 1 << 8, 1 << 16, 1 << 32)[info - 24]:
            raise Broken("a number that is not in its shortest form")
        return major, info, n
    def count(self, major):
        got, _, n = self.head()
        if got != major:
            raise Broken("major type %d where %d belongs" % (got, major))
        return n
    def text(self, n):
        try:
            return self.take(n).decode()
        except UnicodeDecodeError:
            raise Broken("text that is not UTF-8") from None
    def value(self, depth=1):
        major, info, n = self.head()
        if depth > MAX_DEPTH and major in (4, 5):
            raise Broken("nested too deep")
        if major in (0, 1):
            return n if major == 0 else -1 - n
        if major == 3:
            return self.text(n)
        if major == 4:
            return [self.value(depth + 1) for _ in range(n)]
        if major == 5:
            return {key: self.value(depth + 1) for key in self.keys(n)}
        if major == 6 and n in (2, 3):
            magnitude = int.from_bytes(self.take(min(self.count(2), 4096)), "big")
            return magnitude if n == 2 else -1 - magnitude
        if major == 7 and info in (20, 21, 22):
            return (False, True, None)[info - 20]
        if major == 7 and info in (25, 26, 27):
            return self.floating(info, n)
        raise Broken("a value of major type %d that no archive has" % major)
    @staticmethod
    def floating(info, n):
        form = {25: ">e", 26: ">f", 27: ">d"}
        number = struct.unpack(form[info], n.to_bytes(1 << (info - 24), "big"))[0]
        if info > 25 and abs(number) < 65504 and struct.unpack(form[info - 1], struct.pack(form[info - 1], number))[0] == number:
            raise Broken("a float that is not in its shortest form")
        return number
    def keys(self, n):
        last = None
        for _ in range(n):
            key = self.text(self.count(3))
            place = (len(key.encode()), key.encode())
            if last is not None and place <= last:
                raise Broken("keys that are not in order, or twice: %r" % key)
            last = place
            yield key

def check_path(path):
    if not re.fullmatch(r"[a-z0-9._/-]{1,200}", path) or path.startswith("m/") or any(p in ("", ".", "..") for p in path.split("/")):
        raise Broken("a path that no archive has: %r" % path)

def place(path):
    """(rank, number, item, form) of a path, or None when no known item has it."""
    number, spelled = 0, path
    found = re.search(r"\.([1-9][0-9]{0,8})\.cbor$", path)
    if found:
        number, spelled = int(found[1]), path[: found.start()] + ".N.cbor"
    return next(((int(r), number, item, form) for r, item, p, form in TABLE if p == spelled), None)

def bounded(name, stream):
    data = stream.read() if name == "m.rooms.cbor" else stream.read(MAX_FILE + 1)
    if len(data) > MAX_FILE and name != "m.rooms.cbor":
        raise Broken("%s is larger than %d bytes" % (name, MAX_FILE))
    return data

def members(path):
    """Each file of an archive in order, as (path, stream)."""
    if os.path.isdir(path):
        yield from directory(path)
        return
    try:
        with tarfile.open(path, "r|*") as tar:
            for m in tar:
                name = m.name.removeprefix("./")
                if m.isdir():
                    continue
                check_path(name)
                if not m.isreg() or m.issparse():
                    raise Broken("neither a file nor a directory: %s" % name)
                yield name, bounded(name, tar.extractfile(m))
    except (tarfile.TarError, EOFError, OSError) as e:
        raise Broken("it cannot be unpacked, or ends too early: %s" % e) from None

def directory(path):
    names = []
    for folder, dirs, files in os.walk(path):
        for name in dirs + files:
            full = os.path.join(folder, name)
            check_path(os.path.relpath(full, path))
            if os.path.islink(full) or not (os.path.isdir(full) or os.path.isfile(full)):
                raise Broken("neither a file nor a directory: %s" % full)
        names += [os.path.relpath(os.path.join(folder, f), path) for f in files]

    def order(name):
        rank, number, item, _ = place(name) or (0 if name == MANIFEST else FOREIGN, 0, name, "")
        return rank, number, item != "m.events", name  # an event before what is kept beside it

    for name in sorted(names, key=order):
        with open(os.path.join(path, name), "rb") as f:
            yield name, bounded(name, f)

def document(data):
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise Broken("not JSON: %s" % e) from None
    if not isinstance(value, dict):
        raise Broken("not a JSON object")
    return value

def manifest(data):
    """The items that can be read; the rules that abort are applied here."""
    value = document(data)
    items = value.get("items")
    if value.get("version") != 0 or not isinstance(items, dict):
        raise Broken("not a manifest of version 0")
    known, foreign = set(), []
    for name, item in items.items():
        item = item if isinstance(item, dict) else {}
        layout = name not in ("m.e2e.keys", "m.e2e.to_device") or item.get(LAYOUT) == 1
        if any(name == row[1] for row in TABLE) and item.get("v") == 1 and layout:
            known.add(name)
        elif name.startswith("m."):
            raise Broken("an item that is not understood: %s" % name)
        else:
            foreign.append(name)
    return known, foreign

def elements(archive, integrity=None):
    """Every element as (item, file, key, value). integrity, a dict, gets what was seen."""
    seen, numbers, counts, last_rank = {}, {}, {}, 0
    known = foreign = wanted = None
    for name, data in members(archive):
        if name in seen:
            raise Broken("%s is there twice" % name)
        if wanted is not None:
            raise Broken("%s comes after the integrity item" % name)
        seen[name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        if known is None:
            if name != MANIFEST:
                raise Broken("the first file is %s, not the manifest" % name)
            known, foreign = manifest(data)
        elif place(name) and place(name)[2] in known:
            rank, number, item, form = place(name)
            if rank < last_rank or number and number != numbers.get((item, form), 0) + 1:
                raise Broken("%s is not where it belongs" % name)
            last_rank, numbers[item, form] = rank, number
            counts.setdefault(item, 0)
            for key, value in content(form, data):
                counts[item] += 1
                if name == INTEGRITY:
                    wanted = value
                yield item, name, key, value
        elif not any(name.replace("/", ".").startswith(item + ".") for item in foreign):
            raise Broken("%s belongs to no item of the manifest" % name)
    if known is None:
        raise Broken("there is no manifest")
    if wanted is None:
        raise Broken("it has no integrity item: it may be cut off")
    seen.pop(INTEGRITY)
    if wanted["files"] != seen:
        raise Broken("altered: %s" % ", ".join(sorted(n for n in seen.keys() | wanted["files"].keys() if seen.get(n) != wanted["files"].get(n))))
    for item in known - {"im.lifeboat.integrity"}:
        if counts.get(item) is None or counts[item] != wanted["items"].get(item, {}).get("elements", counts[item]):
            raise Broken("%s has not as many elements as the integrity item says" % item)
    (integrity if integrity is not None else {}).update(wanted, foreign=foreign)

def content(form, data):
    if form == "json":
        yield "", document(data)
        return
    cbor = Cbor(data)
    for key in cbor.keys(cbor.count(5)):
        for _ in range(1 if form == "map" else cbor.count(4)):
            yield key, cbor.value()
    if cbor.at != len(data):
        raise Broken("something follows the map")

def show(archive):
    integrity, about, report = {}, {}, {}
    for item, _, _, value in elements(archive, integrity):
        about = value if item == "im.lifeboat.archive" else about
        report = value if item == "im.lifeboat.report" else report
    point = about["restore_point"]
    when = datetime.datetime.fromtimestamp(point["time_ms"] / 1000, datetime.timezone.utc)
    print("%s, from %s %s, as of %s (%s)" % (about["server_name"], about["source"]["software"], about["source"].get("version", ""), when.isoformat(), point.get("lsn", "no LSN")))
    for item, size in sorted(integrity["items"].items()):
        print("%10d elements %12d bytes in %4d files  %s" % (size["elements"], size["bytes"], size["files"], item))
    print("".join("passed over: %s\n" % item for item in integrity["foreign"]), end="")
    print("Nothing is missing." if report["complete"] else "Not carried, or not whole:")
    for loss in report["losses"]:
        print("  %s: %s, %d: %s" % (loss["item"], loss["state"], loss["count"], loss["reason"]))

def check(archive):
    """Beside what reading checks: users once, events beside their meta data, rooms listed."""
    rooms, users, events, last = set(), 0, [], ""
    for item, name, key, value in elements(archive):
        if item == "m.rooms":
            rooms.add(key)
        elif item == "m.events":
            if key not in rooms:
                raise Broken("events of %s, which m.rooms does not have" % key)
            events.append((name.split(".")[-2], key, value.get("event_id")))
        elif item == "im.lifeboat.event_meta":
            number, room, event_id = events.pop(0) if events else (None, None, None)
            if (number, room) != (name.split(".")[-2], key) or event_id not in (None, value["event_id"]):
                raise Broken("%s is not beside its event" % value["event_id"])
        elif item == "m.users":
            if last and (len(key.encode()), key) <= (len(last.encode()), last):
                raise Broken("%s after %s: users are not ascending" % (key, last))
            last, users = key, users + 1
    if events:
        raise Broken("%d events have no entry in event_meta" % len(events))
    print("whole: %d rooms, %d users" % (len(rooms), users))

def room(archive, wanted):
    found = False
    for item, _, key, event in elements(archive):
        if item == "m.events" and key == wanted:
            found = True
            when = datetime.datetime.fromtimestamp(event.get("origin_server_ts", 0) / 1000, datetime.timezone.utc)
            text = event["content"].get("body") or json.dumps(event["content"], ensure_ascii=False)
            state = " [%s]" % event["state_key"] if "state_key" in event else ""
            print("%s %s %s%s: %s" % (when.strftime("%Y-%m-%d %H:%M:%S"), event["sender"], event["type"], state, text))
    if not found:
        raise Broken("there is no room %s" % wanted)

def main(args):
    command = {("list", 1): show, ("check", 1): check, ("room", 2): room}.get((args[0] if args else "", len(args) - 1))
    if command is None:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        command(*args[1:])
    except (Broken, KeyError, TypeError, AttributeError, RecursionError, OSError) as e:  # a shape that no archive has is broken, too
        print("broken: %s" % (e if isinstance(e, Broken) else repr(e)), file=sys.stderr)
        return 1
    return 0

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
