#!/usr/bin/env python3
"""A reader of Lifeboat's store, written from docs/format.md alone: it shares no line with
the program, and proves that what is stored can be read without it.

    store_reader.py [--key FILE] REPOSITORY points
    store_reader.py [--key FILE] REPOSITORY table SCHEMA.NAME [LSN|latest] [LINEAGE]
    store_reader.py [--key FILE] REPOSITORY verify

REPOSITORY is a folder. `points` lists what can be restored, `table` writes a table's rows at
a commit as PostgreSQL's COPY text, `verify` opens and checks everything that is reached.
FILE holds an age identity (AGE-SECRET-KEY-1...); a repository in plain text needs none.
Needs Python 3.9, its package cryptography, and the library libzstd.
"""
import base64, ctypes, ctypes.util, hashlib, hmac, os, struct, sys

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
except ImportError:
    sys.exit("this reader needs the Python package cryptography: pip install cryptography")

Broken = type("Broken", (Exception,), {"__doc__": "What is stored is not what the format says."})

def must(ok, what):
    if not ok:
        raise Broken(what)

def mac(key, *parts):
    return hmac.new(key, b"".join(parts), hashlib.sha256).digest()

def derive(key, salt, info):
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(key)

def cbor(b, at=0):
    """Gives the item at a place and the place behind it."""
    must(at < len(b), "CBOR ends too early")
    major, info = b[at] >> 5, b[at] & 31
    at += 1
    n = info
    if info > 23:
        must(info < 28, "CBOR of indefinite length")
        n, at = int.from_bytes(b[at:at + (1 << info - 24)], "big"), at + (1 << info - 24)
    if major < 2:
        return (-1 - n if major else n), at
    if major in (2, 3):
        must(at + n <= len(b), "a text beyond the end")
        raw = bytes(b[at:at + n])
        return (raw if major == 2 else raw.decode()), at + n
    if major in (4, 5):
        out = []
        for _ in range(n if major == 4 else 2 * n):
            v, at = cbor(b, at)
            out.append(v)
        return (out if major == 4 else Map(zip(out[::2], out[1::2]))), at
    must(major == 7 and info in (20, 21, 22), "CBOR that the format does not use")
    return {20: False, 21: True, 22: None}[info], at

class Map(dict):
    """What a map leaves out is zero or empty."""

    def __missing__(self, key):
        return None

def item(b):
    v, at = cbor(b)
    must(at == len(b), "something behind the CBOR")
    return v

BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"

def identity(text):
    """The secret key in an AGE-SECRET-KEY-1... line."""
    bits = "".join(format(BECH32.index(c), "05b") for c in text.strip().lower().rpartition("1")[2][:-6])
    return X25519PrivateKey.from_private_bytes(bytes(int(bits[i:i + 8], 2) for i in range(0, 256, 8)))

def unb64(s):
    return base64.b64decode(s + "=" * (-len(s) % 4))

def unage(b, keys):
    """Opens an age file with one of the keys."""
    must(b.startswith(b"age-encryption.org/v1\n"), "not an age file")
    end = b.index(b"\n--- ")
    file_key = None
    for stanza in b[:end].decode().split("\n-> ")[1:]:
        head, _, body = stanza.partition("\n")
        kind, *args = head.split(" ")
        for key in keys if kind == "X25519" else ():
            share = unb64(args[0])
            mine = key.public_key().public_bytes_raw()
            wrap = derive(key.exchange(X25519PublicKey.from_public_bytes(share)), share + mine, b"age-encryption.org/v1/X25519")
            try:
                file_key = ChaCha20Poly1305(wrap).decrypt(bytes(12), unb64(body.replace("\n", "")), None)
            except InvalidTag:  # another recipient's
                continue
    must(file_key is not None, "none of the keys opens an age file")
    line_end = b.index(b"\n", end + 1)
    want = unb64(b[end + 5:line_end].decode())
    must(hmac.compare_digest(want, mac(derive(file_key, b"", b"header"), b[:end + 4])), "the header of an age file was altered")
    nonce, payload = b[line_end + 1:line_end + 17], b[line_end + 17:]
    stream = ChaCha20Poly1305(derive(file_key, nonce, b"payload"))
    out, step = [], 65536 + 16
    for n, at in enumerate(range(0, max(len(payload), 1), step)):
        last = at + step >= len(payload)
        out.append(stream.decrypt(n.to_bytes(11, "big") + (b"\1" if last else b"\0"), payload[at:at + step], None))
    return b"".join(out)

ZSTD = ctypes.CDLL(ctypes.util.find_library("zstd") or "libzstd.so.1")
ZSTD.ZSTD_getFrameContentSize.restype = ctypes.c_ulonglong
ZSTD.ZSTD_decompress.restype = ctypes.c_size_t

def frame(b):
    """Opens a frame: length, zstd, zeros (format 4)."""
    n = int.from_bytes(b[:8], "big")
    must(8 + n <= len(b) and not any(b[8 + n:]), "a frame that is not padded with zeros")
    packed = b[8:8 + n]
    size = ZSTD.ZSTD_getFrameContentSize(packed, ctypes.c_size_t(n))
    must(size < 1 << 32, "a frame without its size")
    out = ctypes.create_string_buffer(max(size, 1))
    got = ZSTD.ZSTD_decompress(out, ctypes.c_size_t(size), packed, ctypes.c_size_t(n))
    must(got == size, "a frame that cannot be decompressed")
    return out.raw[:size]

class Repository:
    def __init__(self, path, key_file):
        self.path = path
        config = self.read("lifeboat.json")
        self.secrets = self.open_secrets(key_file)
        must(self.secrets[12] == hashlib.sha256(config).digest(), "lifeboat.json is not that of the keys")
        self.name_key, self.chunk_key, self.seal, self.digest_key = (self.secrets[i] for i in (2, 3, 4, 7))
        self.trailer = derive(self.seal, None, b"lifeboat/1/trailer")
        self.log_trailer = derive(self.seal, None, b"lifeboat/1/log-trailer")
        self.own = [identity(self.secrets[10])]
        self.chunks = 0

    def read(self, key):
        with open(os.path.join(self.path, key), "rb") as f:
            return f.read()

    def has(self, key):
        return os.path.exists(os.path.join(self.path, key))

    def open_secrets(self, key_file):
        newest = max(os.listdir(os.path.join(self.path, "keys")), key=lambda n: int(n.split(".")[0]))
        b = self.read("keys/" + newest)
        if newest != "0.clear":
            if not key_file:
                sys.exit("this repository is encrypted: name the file of an age identity with --key")
            with open(key_file) as f:
                b = unage(b, [identity(line) for line in f if line.startswith("AGE-SECRET-KEY-1")])
        must(b.startswith(b"lifeboat-secrets\1") and hashlib.sha256(b[:-32]).digest() == b[-32:], "the secrets are damaged")
        return item(b[17:-32])

    def chunk(self, kind, d, gen):
        """The plaintext of a chunk, everything about it checked (format 5)."""
        name = mac(self.name_key, gen, d)
        b = self.read("chunk/%s/%s" % (name.hex()[:2], name.hex()))
        must(b[:10] == b"LIFECHNK\1" + kind, "chunk %s: another kind or format" % name.hex())
        must(hmac.compare_digest(mac(self.trailer, name, b[:-32]), b[-32:]), "chunk %s: damaged" % name.hex())
        packed = AESGCM(mac(self.chunk_key, b"\1", d)).decrypt(b[10:22], b[22:-32], b[:10])
        must(mac(mac(self.chunk_key, b"\2", d), packed)[:12] == b[10:22], "chunk %s: another nonce" % name.hex())
        plain = frame(packed)
        must(hashlib.sha256(kind + plain).digest() == d, "chunk %s: another content" % name.hex())
        self.chunks += 1
        return plain

    def extents(self, kind, *extents):
        return b"".join(self.chunk(kind, d, gen)[offset:offset + length] for d, gen, offset, length in extents)

    def line(self, v):
        """A line: itself, or in extents (format 7)."""
        return self.extents(b"b", *v) if isinstance(v, list) else v

    def logs(self):
        return sorted(os.listdir(os.path.join(self.path, "log"))) if "log" in os.listdir(self.path) else []

class Entry:
    def __init__(self, repo, log, epoch, seq):
        self.at, self.log, self.repo = (epoch, seq), log, repo
        self.key = "log/%s/%010d/%010d" % (log, epoch, seq)
        b = repo.read(self.key)
        must(len(b) >= 150 and b[:9] == b"LIFEBLOG\1", "%s: not an entry" % self.key)
        must(hmac.compare_digest(mac(repo.log_trailer, self.key.encode(), b[:-32]), b[-32:]), "%s: damaged" % self.key)
        system, oid, lineage, e, s = struct.unpack(">QIQQQ", b[10:46])
        must("%016x-%d.%016x" % (system, oid, lineage) == log and (e, s) == (epoch, seq), "%s: it is of another place" % self.key)
        self.kind, self.salt, self.before = b[9:10], b[46:78], b[78:110]
        n1, n2 = struct.unpack(">II", b[110:118])
        must(118 + n1 + n2 + 32 == len(b), "%s: lengths that do not fit" % self.key)
        one = AESGCM(derive(repo.seal, self.salt + b"\1", b"lifeboat/1/entry")).decrypt(bytes(12), b[118:118 + n1], b[:118])
        self.summary = item(frame(one))
        self.sealed, self.bound = b[118 + n1:118 + n1 + n2], b[:118 + n1]
        self.hash = hashlib.sha256(b).digest()
        self.part = self.summary.get({b"e": 4, b"x": 5, b"s": 6, b"b": 7, b"h": 8, b"c": 9}.get(self.kind, 10 if 10 in self.summary else 11))

    def body(self, key):
        """The frames of part 2."""
        b = AESGCM(derive(key, self.salt + b"\2", b"lifeboat/1/entry")).decrypt(bytes(12), self.sealed, self.bound)
        while b:
            n = int.from_bytes(b[:4], "big")
            yield frame(b[4:4 + n])
            b = b[4 + n:]

class Log:
    """One lineage: what its entries say together (format 6.9)."""

    def __init__(self, repo, name):
        self.repo, self.name, self.keys, self.bodies = repo, name, {}, {}
        self.bases, self.histories, self.segments, self.schemas, self.marks = [], [], [], [], {}
        self.durable, self.oldest, self.ready, self.entries, self.first, self.pruned, self.points, self.fates = 0, 0, False, 0, {}, 0, [], {}
        self.walk()

    def entry(self, epoch, seq):
        return Entry(self.repo, self.name, epoch, seq)

    def exists(self, epoch, seq):
        return self.repo.has("log/%s/%010d/%010d" % (self.name, epoch, seq))

    def walk(self):
        listed = lambda *at: [int(n) for n in os.listdir(os.path.join(self.repo.path, "log", self.name, *at)) if n.isdigit()]
        last = max(listed())
        tail = [self.entry(last, seq) for seq in range(len(listed("%010d" % last)))]
        start = next((e for e in reversed(tail) if e.kind == b"c"), None)
        named, want = tail[0].part[9]
        if start is None and any(named):
            start = self.entry(*named)
            must(start.hash == want, "%s: another checkpoint than the one named" % start.key)
        epoch, seq, hashed = (start.at[0], start.at[1] + 1, start.hash) if start else (0, 0, bytes(32))
        if start:
            self.checkpoint(start.part)
        while epoch <= last:
            ended = False
            while not ended and self.exists(epoch, seq):
                e = self.entry(epoch, seq)
                must(e.before == hashed, "%s: it does not follow the entry before it" % e.key)
                self.take(e)
                hashed, ended = e.hash, e.kind == b"x"
                seq, self.entries = seq + 1, self.entries + 1
            must(ended or epoch == last, "%s: entries of epoch %d are missing" % (self.name, epoch))
            epoch, seq = epoch + 1, 0

    def checkpoint(self, c):
        self.durable, self.oldest, self.ready = c[1], c[3], c[4]
        self.segments = [(tuple(s[0]), s[1], s[2]) for s in c[7] or []]
        self.histories = [(tuple(h[0]), h[1], h[2], h[3]) for h in c[8] or []]
        self.bases = [(tuple(b[0]), b[1], b[2], b[3], b[4], b[5]) for b in c[9] or []]
        self.schemas = [(tuple(s[0]), s[1]) for s in c[10] or []]
        self.marks, self.pruned, self.points = {m[1]: m[2] for m in c[12] or []}, c[21] or 0, [p[3] for p in c[22] or []]
        self.fates = {r[1]: 13 if any(r[3]) else 18 for r in c[24] or [] if any(r[3]) or any(r[5])}

    def take(self, e):
        p = e.part
        if e.kind == b"e":
            self.durable = max(self.durable, p[5])
        elif e.kind == b"s":
            self.segments.append((e.at, p[1], p[2]))
            self.durable = p[2]
        elif e.kind == b"b":
            self.bases.append((e.at, p[1], p[2], p[3], p[4], p[5]))
            if not self.ready:
                self.oldest = max(self.oldest, self.first.setdefault(p[1], p[4]))
        elif e.kind == b"h":
            self.histories.append((e.at, p[1], p[2], p[3]))
            self.segments = [s for s in self.segments if s[0][0] != p[1]]
        elif e.kind == b"n" and 10 in e.summary:
            if not self.schemas and not self.ready:
                self.oldest = max(self.oldest, p[1])
            self.schemas.append((e.at, p[1]))
        elif e.kind == b"n":
            self.durable, self.ready = max(self.durable, p[2] or 0), self.ready or p[1] == 2
            self.marks.update({p[6]: p[8]} if p[1] == 5 else {})
            if p[1] in (13, 18) and self.fates.setdefault(p[11], p[1]) == p[1] == 13:
                for kind in (self.bases, self.histories, self.segments, self.schemas):
                    kind[:] = [x for x in kind if not any(g[0] == x[0][0] and g[1] <= x[0][1] <= g[2] for g in p[19] or [])]
                if p[20][1] >= self.oldest:
                    self.oldest, self.pruned, self.points = p[20][1], p[20][1], [k[3] for k in p[20][2] or []]

    def epoch_key(self, epoch):
        if epoch not in self.keys:
            first = self.entry(epoch, 0).part
            self.keys[epoch] = unage(first[7], self.repo.own)
            must(derive(self.keys[epoch], None, b"lifeboat/1/check")[:16] == first[12], "epoch %d: another key" % epoch)
        return self.keys[epoch]

    def body(self, at, epoch=None):
        """The frames of an entry's body; the first is a map. It is kept."""
        if at not in self.bodies:
            first, *more = self.entry(*at).body(self.epoch_key(at[0] if epoch is None else epoch))
            self.bodies[at] = [item(first)] + more
        return self.bodies[at]

    def tables(self, point):
        schema = max((s for s in self.schemas if s[1] <= point), key=lambda s: s[1], default=None)
        must(schema is not None, "no schema is certain at %s" % lsn(point))
        return self.body(schema[0])[0][4] or []

    def table(self, name, point):
        """The rows of a table at a point: columns, lines."""
        must(point >= self.pruned or point in self.points, "the point %s was pruned" % lsn(point))
        oid = next((t[1] for t in self.tables(point) if "%s.%s" % (t[2], t[3]) == name), None)
        must(oid is not None, "no table %s at %s" % (name, lsn(point)))
        base = max((b for b in self.bases if b[1] == oid and b[4] <= point), key=lambda b: b[4], default=None)
        must(base is not None, "table %s has no base at or before %s" % (name, lsn(point)))
        body = self.body(base[0])[0]
        rows, total, want = Rows(body[1]), 0, body[6]
        for line in self.base_lines(body):
            rows.add(line)
            total += line_digest(self.repo, body[1], line)
        must(total % (1 << 128) == want[1] << 64 | want[2] and rows.count == want[3], "the base of %s has another digest" % name)
        for xid, end, relation, op, old, new in self.records(oid, body[4], point):
            if end > body[4] and end <= point and not sees(body[3], xid):
                rows.apply(relation, op, old, new)
        return body[1], rows.lines()

    def base_lines(self, body):
        for ref, long in body[2] or []:
            if ref is None:
                yield self.repo.extents(b"b", *long)
            else:
                yield from self.repo.chunk(b"r", ref[0], ref[1]).split(b"\n")[:-1]

    def records(self, oid, since, until):
        """The records of a table in (since, until], in the order of commits."""
        runs = [(h[2], h[3], h) for h in self.histories] + [(s[1], s[2], s) for s in self.segments]
        for start, end, x in sorted(runs, key=lambda r: (r[0], r[1])):
            if end > since and start < until:
                yield from self.of_history(x, oid) if len(x) == 4 else self.of_segment(x, oid)

    def of_history(self, h, oid):
        body = self.body(h[0], h[1])[0]
        pieces = [piece for table in body[6] or [] if table[1] == oid for piece in table[3]]
        txns = [t for ref, *_ in (body[4] or []) * bool(pieces) for t in item(self.repo.chunk(b"c", ref[0], ref[1]))] + (body[5] or [])
        for ref, offset, length, *_ in pieces:
            for i, r in run_of(self.repo.chunk(b"c", ref[0], ref[1])[offset:offset + length]):
                yield self.record(txns[i], body[3], r)

    def of_segment(self, s, oid):
        body, *frames = self.body(s[0])
        found, secret = [], iter(frames)
        for part in body[5] or []:
            run = part[1] if part[1] is not None else self.repo.extents(b"c", part[2]) if part[2] is not None else next(secret)
            found += [(i, r) for i, r in run_of(run) if body[3][r[1]][1] == oid]
        for i, r in sorted(found, key=lambda x: (x[0], x[1][0])):
            yield self.record(body[4][i], body[3], r)

    def record(self, txn, relations, r):
        _, relation, op, old, new = r
        lines = (None, None) if op == "t" else (self.repo.line(old), self.repo.line(new))
        return (txn[0], txn[2], relations[relation], op) + lines

def run_of(b):
    at, txn = 0, None
    while at < len(b):
        v, at = cbor(b, at)
        if isinstance(v, int):
            txn = v
        else:
            yield txn, v

def sees(snapshot, xid):
    xmin, xmax, running = snapshot
    return xid < xmin or (xid < xmax and xid not in (running or []))

def line_digest(repo, relation, line):
    where = relation[2].encode() + b"\0" + relation[3].encode() + b"\0"
    return int.from_bytes(mac(repo.digest_key, where, line)[:16], "big")

class Rows:
    """The rows of one table, by their key; without a key by all of the line, as often as it is there."""

    def __init__(self, relation):
        self.key, self.names = relation[5] or [], [c[1] for c in relation[4] or []]
        self.rows, self.count = {}, 0

    def name(self, line):
        f = line.split(b"\t")
        return b"\t".join(f[i] for i in self.key) if self.key else line

    def fit(self, relation, line):
        """A record's line in the order of our columns."""
        names = [c[1] for c in relation[4] or []]
        if line is None or names == self.names:
            return line
        must(set(self.names) <= set(names), "a record without a column of its table")
        f = line.split(b"\t")
        return b"\t".join(f[names.index(n)] for n in self.names)

    def add(self, line):
        same = self.rows.setdefault(self.name(line), [])
        must(not (self.key and same), "a row meets a live key")
        same.append(line)
        self.count += 1

    def remove(self, line):
        must(self.rows.get(self.name(line)), "an update or delete meets no row")
        self.count -= 1
        return self.rows[self.name(line)].pop()

    def apply(self, relation, op, old, new):
        if op == "t":
            return self.__init__(relation)
        old, new = self.fit(relation, old), self.fit(relation, new)
        before = self.remove(old if old is not None else new) if op in "ud" else None
        if new is not None:
            if before is not None:  # values that the source did not send stay what they were
                new = b"\t".join(b if a == b"\\U" else a for a, b in zip(new.split(b"\t"), before.split(b"\t")))
            self.add(new)

    def lines(self):
        return (line for same in self.rows.values() for line in same)

def lsn(n):
    return "%X/%X" % (n >> 32, n & 0xffffffff)

def points(repo):
    for name in repo.logs():
        log = Log(repo, name)
        print("%s: %s from %s to %s; %d bases, %d histories, %d segments" % (name, "restorable" if log.ready else "not restorable yet,", lsn(log.oldest), lsn(log.durable), len(log.bases), len(log.histories), len(log.segments)))
        for mark, at in sorted(log.marks.items()):
            print("  mark %s at %s" % (mark, lsn(at)))

def verify(repo):
    for name in repo.logs():
        log = Log(repo, name)
        held = {b[1] for b in log.bases if b[4] <= log.durable}
        names = ["%s.%s" % (t[2], t[3]) for t in (log.tables(log.durable) if log.ready else []) if t[1] in held]
        any(log.table(table, log.durable) is None for table in names)
        print("%s: the chain of %d entries holds, %d tables at %s read whole, %d chunks opened" % (name, log.entries, len(names), lsn(log.durable), repo.chunks))

def main(args):
    key = None
    if args[:1] == ["--key"]:
        key, args = args[1], args[2:]
    if len(args) < 2 or args[1] not in ("points", "table", "verify") or args[1] == "table" and len(args) < 3:
        sys.exit(__doc__)
    repo = Repository(args[0], key)
    if args[1] != "table":
        return points(repo) if args[1] == "points" else verify(repo)
    log = Log(repo, args[4] if len(args) > 4 else repo.logs()[-1])
    at = log.durable
    if args[3:4] not in ([], ["latest"]):
        at = sum(int(part, 16) << shift for part, shift in zip(args[3].split("/"), (32, 0)))
    sys.stdout.buffer.writelines(line + b"\n" for line in log.table(args[2], at)[1])

if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Broken, OSError, ValueError, KeyError) as e:
        sys.exit("%s: %s" % (type(e).__name__, e))
