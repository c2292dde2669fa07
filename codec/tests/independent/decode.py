#!/usr/bin/env python3
"""Decodes frames as FORMAT.md says, in another language and without any code of the crate; every rule is enforced.

    decode.py [FILE ...]            frames in hex, one per line; without a file from standard input
    decode.py --session EPOCH ...   the frames of one direction of a connection, in order; behind each frame the numbers
                                    of its streams, with commas: f501... 1,2,3
    decode.py --connection IN OUT ...   what one end of a connection sees, in order: the same lines, `<` in front of
                                    frames that it gets and `>` in front of those that it sends; IN and OUT are the
                                    epochs. `?` is for a frame that may come next and is forgotten again

Prints `ok` and the messages in hex, one line per frame (an empty message is `-`), or `refused` and why. Python's standard
library only, except that frames with the zstd stage need the module `zstandard`, or Python 3.14; without it they are
`skipped`, and so are those that follow on the same connection.
"""

import copy
import sys

DESTINATIONS, MESSAGE_BYTES, OUTPUT_BYTES = 1024, 64 << 20, 256 << 20
PIECES, RECORDS, DATA_BYTES, SET_BYTES = 1 << 20, 1 << 18, 256 << 20, 4 << 20
CONCAT, LZ4, ZSTD, HISTORY, NOREF, ECHO = 1, 2, 4, 8, 16, 32
OPENING_BYTES, STREAM_BYTES, STREAMS, ECHO_BYTES = 256, 4096, 1024, 1 << 20


class Skipped(Exception):
    """A frame that this machine cannot read."""


class Refused(Exception):
    """The bytes are not exactly one canonical frame."""


def require(condition, why):
    if not condition:
        raise Refused(why)


def crc_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


TABLE = crc_table()


def crc32c(data, before=0):
    crc = before ^ 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def lz4_block(block, length):
    """One LZ4 block that expands to exactly `length` bytes."""
    out, at = bytearray(), 0

    def more(value):
        nonlocal at
        while value >= 15:
            require(at < len(block), "lz4: a length ends early")
            extra = block[at]
            at += 1
            value += extra
            if extra != 255:
                break
        return value

    while True:
        require(at < len(block), "lz4: no token")
        token = block[at]
        at += 1
        literals = more(token >> 4)
        require(at + literals <= len(block), "lz4: literals end early")
        out += block[at : at + literals]
        at += literals
        require(len(out) <= length, "lz4: too long")
        if at == len(block):
            break
        require(at + 2 <= len(block), "lz4: no offset")
        offset = block[at] | block[at + 1] << 8
        at += 2
        require(0 < offset <= len(out), "lz4: offset")
        count = more(token & 15) + 4
        require(len(out) + count <= length, "lz4: too long")
        for _ in range(count):
            out.append(out[-offset])
    require(len(out) == length, "lz4: another length")
    return bytes(out)


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def left(self):
        return len(self.data) - self.at

    def take(self, count):
        require(count <= self.left(), "truncated")
        self.at += count
        return self.data[self.at - count : self.at]

    def byte(self):
        return self.take(1)[0]

    def uv(self):
        value = 0
        for index in range(10):
            byte = self.byte()
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                require(byte != 0 or index == 0, "integer: longer than needed")
                require(value < 1 << 64, "integer: too large")
                return value
        raise Refused("integer: more than ten bytes")


def uv_bytes(value):
    return max(1, -(-value.bit_length() // 7))


def members_of(bits):
    return [index for index in range(bits.bit_length()) if bits >> index & 1]


def list_bytes(bits):
    size, start = uv_bytes(bits.bit_count()), 0
    for member in members_of(bits):
        size += uv_bytes(member - start)
        start = member + 1
    return size


class Sets:
    """Sets are integers: bit i is destination i."""

    def __init__(self, count):
        self.count = count
        self.all = (1 << count) - 1
        self.defined = [self.all]
        self.numbers = {}
        self.previous = self.all
        self.next = 0

    def spelling(self, bits):
        """Rule 3: the first of these that can. REF by its number, ONE and BUT alike; a definition by its code."""
        if bits == self.all:
            return ("REF", 0)
        if bits.bit_count() == 1:
            one = bits.bit_length() - 1
            return ("NEXT", None) if one == self.next else ("ONE", one)
        without = bits ^ self.all
        if without.bit_count() == 1:
            return ("BUT", without.bit_length() - 1)
        if bits in self.numbers:
            return ("REF", self.numbers[bits])
        sizes = [(self.count + 7) // 8]
        sizes += [list_bytes(listed) for listed in (bits ^ self.previous, bits, without)]
        return (0xC4 + sizes.index(min(sizes)), None)

    def read_list(self, reader):
        count, bits, start = reader.uv(), 0, 0
        require(0 < count <= self.count, "list: no or too many members")
        for _ in range(count):
            member = start + reader.uv()
            require(member < self.count, "list: a member beyond the last")
            bits |= 1 << member
            start = member + 1
        return bits

    def read(self, reader):
        code = reader.byte()
        low = code & 0x3F

        def long():
            value = reader.uv()
            require(value >= 64, "numbers below 64 have a one-byte code")
            return value

        if code < 0x40:
            spelled = ("REF", low)
        elif code < 0x80:
            spelled = ("ONE", low)
        elif code < 0xC0:
            spelled = ("BUT", low)
        elif code == 0xC0:
            spelled = ("NEXT", None)
        elif code <= 0xC3:
            spelled = (("ONE", "BUT", "REF")[code - 0xC1], long())
        elif code <= 0xC7:
            spelled = (code, None)
        else:
            raise Refused("code %02x" % code)
        kind, number = spelled
        if kind == "REF":
            require(number < len(self.defined), "a set that is not defined")
            bits = self.defined[number]
        elif kind in ("ONE", "BUT", "NEXT"):
            index = self.next if kind == "NEXT" else number
            require(index < self.count, "a member beyond the last")
            bits = 1 << index if kind != "BUT" else self.all ^ 1 << index
        elif kind == 0xC4:
            bits = int.from_bytes(reader.take((self.count + 7) // 8), "little")
            require(bits <= self.all, "a bit beyond the last member")
        else:
            base = {0xC5: self.previous, 0xC6: 0, 0xC7: self.all}[kind]
            bits = self.read_list(reader) ^ base
        require(bits != 0, "an empty set")
        require(self.spelling(bits) == spelled, "another spelling of the set")
        self.previous = bits
        if kind in ("ONE", "NEXT"):
            self.next = bits.bit_length()
        if isinstance(kind, int):
            self.numbers[bits] = len(self.defined)
            self.defined.append(bits)
            require((len(self.defined) - 1) * ((self.count + 7) // 8) <= SET_BYTES, "limit: sets")
        return bits


def zstd_block(block, length):
    require(block[:5] == bytes.fromhex("28b52ffd00"), "zstd: another form of frame")
    require(len(block) > 5 and block[5] <= 0x68, "zstd: the window is too large")
    try:
        try:
            from compression import zstd

            decompressor, error = zstd.ZstdDecompressor(), zstd.ZstdError
        except ImportError:
            import zstandard

            decompressor, error = zstandard.ZstdDecompressor().decompressobj(), zstandard.ZstdError
    except ImportError:
        raise Skipped("zstd: no module reads it") from None
    try:
        data = decompressor.decompress(block)
    except error:
        raise Refused("zstd: damaged") from None
    require(decompressor.eof and not decompressor.unused_data, "zstd: not exactly one frame")
    require(len(data) == length, "zstd: another length")
    return data


class Session:
    """What one direction of a connection remembers, and what was sent on it."""

    def __init__(self, epoch):
        self.checksum = crc32c(epoch.to_bytes(8, "little"))
        self.streams = {}  # in the order of use, the one unused for longest first
        self.other = None  # the other direction, where both are known
        self.columns = bytearray()  # the data of its frames, for references from the other direction
        self.arrived = 0  # so many bytes of that the other direction has said to have arrived
        self.ends = {0: self.checksum}  # the checksum of each frame, by where its data ends in that

    def bytes_of(self, number):
        return self.streams.get(number, b"")

    def enter(self, numbers, messages):
        # Streams of one frame are used at the same time: of these the one with the lower number counts as older.
        used = set(numbers)
        for at, (number, message) in enumerate(zip(numbers, messages)):
            if number not in self.streams and len(self.streams) == STREAMS:
                entered = set(numbers[:at])
                old = [known for known in self.streams if known not in entered]
                del self.streams[old[0] if old else min(self.streams)]
            remembered = self.streams.setdefault(number, b"") + message[:OPENING_BYTES]
            self.streams[number] = remembered[-STREAM_BYTES:]
        for number in sorted(used & self.streams.keys()):
            self.streams[number] = self.streams.pop(number)

    def echo(self, arrived, distance, length):
        """What lies in the other direction's columns, when so many bytes of them have arrived."""
        require(length <= distance <= ECHO_BYTES, "ECHO: a distance that is none")
        require(distance <= arrived, "ECHO: before the first byte")
        return bytes(self.other.columns[arrived - distance : arrived - distance + length])


def decode(frame, session=None, numbers=()):
    reader = Reader(frame)
    require(reader.byte() == 0xF5, "magic")
    require(reader.byte() == 1, "version")
    flags = reader.byte()
    require(flags < 0x40, "unknown flags")
    require(flags & (LZ4 | ZSTD) != LZ4 | ZSTD, "two second stages")
    require(flags & HISTORY or not flags & ECHO, "ECHO without HISTORY")
    require(bool(flags & HISTORY) == (session is not None), "a history where there is none, or none where there is one")
    require(not flags & ECHO or session.other, "this end has sent nothing")
    require(reader.left() >= 4, "truncated")
    reader.data = frame[:-4]
    count = reader.uv()
    require(0 < count <= DESTINATIONS, "number of destinations")
    begins = 0
    if session:
        named = b"".join(number.to_bytes(4, "little") for number in numbers)
        begins = session.checksum ^ crc32c(named)
    arrived = session.other.arrived if session and session.other else 0
    if flags & ECHO:
        arrived += reader.uv()
        require(arrived in session.other.ends, "no frame ends where what has arrived does")
        begins ^= session.other.ends[arrived]
    require(crc32c(frame[:-4], begins) == int.from_bytes(frame[-4:], "little"), "checksum")
    if session:
        require(len(numbers) == count, "numbers of streams")
    lengths = [0] * count
    records, output, pieces, data_bytes = [], 0, 0, 0

    def add(bits, length, each, back, distance):
        nonlocal output, pieces, data_bytes
        members = members_of(bits)
        if back is None and distance is None:
            data_bytes += length * len(members) if each else length
        output += length * len(members)
        pieces += len(members)
        records.append((members, length, each, back, distance))
        require(len(records) <= RECORDS, "limit: records")
        require(pieces <= PIECES, "limit: pieces")
        require(output <= OUTPUT_BYTES and data_bytes <= DATA_BYTES, "limit: bytes")
        for member in members:
            lengths[member] += length
            require(lengths[member] <= MESSAGE_BYTES, "limit: bytes of a message")
            require(back is None or lengths[member] <= OPENING_BYTES, "PAST beyond the opening")

    if flags & CONCAT:
        for index in range(count):
            length = reader.uv()
            if length:
                add(1 << index, length, False, None, None)
    else:
        head, sets, last_back = Reader(reader.take(reader.uv())), Sets(count), None
        while head.left():
            prefix = head.data[head.at]
            if prefix in (0xD0, 0xD1, 0xD2, 0xD4):
                head.byte()
            require(prefix != 0xD3, "reserved code")
            require(prefix != 0xD2 or flags & ECHO, "ECHO where the frame has none")
            require(prefix not in (0xD1, 0xD4) or flags & HISTORY, "PAST without a history")
            bits, length = sets.read(head), head.uv()
            require(length > 0, "a record without bytes")
            require(prefix != 0xD0 or bits.bit_count() > 1, "EACH with one member")
            back = distance = None
            if prefix == 0xD2:
                distance = head.uv()
            if prefix == 0xD1:
                back = head.uv()
                require(back != last_back, "the back of the last PAST")
                last_back = back
            elif prefix == 0xD4:
                require(last_back is not None, "AGAIN without a PAST before it")
                back = last_back
            add(bits, length, prefix == 0xD0, back, distance)

    says = not flags & ECHO or arrived > session.other.arrived or any(record[4] is not None for record in records)
    require(says, "ECHO without anything arrived or referred to")
    column = reader.take(reader.left())
    if flags & LZ4:
        require(len(column) < data_bytes, "a second stage that saves nothing")
        require(data_bytes // 255 <= len(column), "lz4: no block expands so far")
        column = lz4_block(column, data_bytes)
    if flags & ZSTD:
        require(len(column) < data_bytes, "a second stage that saves nothing")
        column = zstd_block(column, data_bytes)
    require(len(column) == data_bytes, "the data is not as long as the records say")
    messages, at = [[] for _ in range(count)], 0
    for members, length, each, back, distance in records:
        echoed = session.echo(arrived, distance, length) if distance is not None else None
        for index, member in enumerate(members):
            if echoed is not None:
                messages[member].append(echoed)
            elif back is None:
                begin = at + index * length if each else at
                messages[member].append(column[begin : begin + length])
            else:
                memory = session.bytes_of(numbers[member])
                begin = len(memory) - back + sum(map(len, messages[member]))
                require(0 <= begin <= len(memory) - length, "more than is remembered")
                messages[member].append(memory[begin : begin + length])
        if back is None and distance is None:
            at += length * len(members) if each else length
    messages = [b"".join(parts) for parts in messages]
    if session:
        session.checksum = int.from_bytes(frame[-4:], "little")
        if session.other:
            session.other.arrived = arrived
        if not flags & NOREF:
            session.enter(numbers, messages)
            session.columns += column
            session.ends.setdefault(len(session.columns), session.checksum)
    return messages


def main(arguments):
    sessions = {}
    if arguments[:1] == ["--session"]:
        sessions[""] = Session(int(arguments[1]))
        arguments = arguments[2:]
    elif arguments[:1] == ["--connection"]:
        sessions["<"], sessions[">"] = Session(int(arguments[1])), Session(int(arguments[2]))
        sessions["<"].other, sessions[">"].other = sessions[">"], sessions["<"]
        arguments = arguments[3:]
    lines = [line for name in arguments for line in open(name, encoding="ascii")] if arguments else sys.stdin
    over = unread = None
    for line in lines:
        words = line.split()
        if not words:
            continue
        way = words.pop(0) if words[0] in "<>?" else ""
        numbers = [int(number) for number in words[1].split(",")] if len(words) > 1 else []
        session = sessions.get(way)
        if way == "?":
            session = copy.deepcopy(sessions["<"])
        try:
            require(over is None, over)
            if unread:
                raise Skipped(unread)
            try:
                frame = b"" if words[0] == "-" else bytes.fromhex(words[0])
            except ValueError:
                raise Refused("the line is not a frame in hex") from None
            messages = decode(frame, session, numbers)
            print("ok", *[message.hex() or "-" for message in messages])
        except Skipped as why:
            print("skipped", why)
            unread = str(why) if session and way != "?" else unread
        except Refused as refusal:
            print("refused", refusal)
            over = str(refusal) if session and way != "?" else over


if __name__ == "__main__":
    main(sys.argv[1:])
