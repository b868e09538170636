"""Makes envelope.json: encrypted values by Python's `cryptography`, from the description of the format alone.

    python3 envelope.py > envelope.json

The format is described in crm-store/src/sealed/envelope.rs and docs/security.md.
"""

import base64
import hashlib
import hmac
import json
import struct
import uuid

from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def part(data):
    return struct.pack(">I", len(data)) + data


def encode(kind, value):
    if kind == "bool":
        return b"\x01" + (b"\x01" if value else b"\x00")
    if kind == "int":
        return b"\x02" + struct.pack(">q", value)
    if kind == "float":
        return b"\x03" + struct.pack(">d", value)
    if kind == "text":
        return b"\x04" + value.encode()
    if kind == "bytes":
        return b"\x05" + bytes(value)
    if kind == "uuid":
        return b"\x07" + uuid.UUID(value).bytes
    if kind == "json":
        return b"\x08" + json.dumps(value, separators=(",", ":"), ensure_ascii=False, sort_keys=True).encode()
    raise ValueError(kind)


def mac(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


def filler(label, length):
    out = b""
    while len(out) < length:
        out += hashlib.sha256(label.encode() + struct.pack(">I", len(out))).digest()
    return out[:length]


VALUES = [
    ("text", ""),
    ("text", "Ana"),
    ("text", "ana@example.com"),
    ("text", "日本語 😀"),
    ("text", "x" * 200),
    ("bool", True),
    ("bool", False),
    ("int", 0),
    ("int", -(2**63)),
    ("int", 2**63 - 1),
    ("float", 0.1),
    ("float", -1.5e-7),
    ("bytes", []),
    ("bytes", [0, 1, 255]),
    ("uuid", "0190f2a0-1234-7abc-8def-001122334455"),
]


def main():
    vectors = []
    values = VALUES + VALUES
    for number, (kind, value) in enumerate(values):
        algorithm = 1 if number < len(VALUES) else 2
        if number == len(VALUES) + 4:
            kind, value = "json", {"a": [1, "ü", None], "b": {"c": True}}
        key = filler(f"key {number}", 32)
        nonce = filler(f"nonce {number}", 12)
        generation = 1 + number % 3
        tenant, schema, field = f"tenant-{number % 4}", "crm_customer", ["city", "family_name"][number % 2]
        record = uuid.UUID(bytes=filler(f"record {number}", 16))
        header = b"OCE" + bytes([1, algorithm]) + struct.pack(">I", generation)
        bound = header + b"".join(map(part, [tenant.encode(), schema.encode(), field.encode(), record.bytes]))
        used = key
        if algorithm == 2:
            used = mac(key, b"open-crm record key 1" + part(schema.encode()) + part(record.bytes))
        plain = encode(kind, value)
        envelope = header + nonce + AESGCM(used).encrypt(nonce, plain, bound)
        blind = None
        if kind != "json":
            index_key = mac(key, b"open-crm blind index 1" + part(schema.encode()) + part(field.encode()))
            blind = str(uuid.UUID(bytes=mac(index_key, plain)[:16]))
        vectors.append(
            {
                "key": base64.b64encode(key).decode(),
                "algorithm": algorithm,
                "generation": generation,
                "tenant": tenant,
                "schema": schema,
                "field": field,
                "record": str(record),
                "nonce": base64.b64encode(nonce).decode(),
                "value": {"type": kind, "value": value},
                "envelope": base64.b64encode(envelope).decode(),
                "blind": blind,
            }
        )
    print(json.dumps(vectors, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
