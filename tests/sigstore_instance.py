"""An instance of Sigstore of one process: a certificate authority, a log of certificates and a log of signatures.

The formats are those of the Fulcio and Rekor services: RFC 6962 (logs of certificates) and C2SP's signed notes.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

_NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
_ISSUER = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_TIMESTAMPS = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_SHA256 = ec.ECDSA(hashes.SHA256())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _public_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _usage(name: str) -> x509.KeyUsage:
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    names += ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{one: one == name for one in names})


class Sigstore:
    """Sign files for anyone who names an identity, and write the trusted root that verifies them."""

    def __init__(self) -> None:
        self._root, self._certificates, self._log = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
        builder = self._builder(name, self._root)
        for extension, critical in ((x509.BasicConstraints(True, 0), True), (_usage("key_cert_sign"), True)):
            builder = builder.add_extension(extension, critical)
        self._authority = builder.subject_name(name).sign(self._root, hashes.SHA256())

    def _builder(self, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        end = _NOW + datetime.timedelta(days=1)
        builder = x509.CertificateBuilder().issuer_name(issuer).public_key(key.public_key()).serial_number(7)
        builder = builder.not_valid_before(_NOW).not_valid_after(end)
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._root.public_key())
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        return builder.add_extension(own, False).add_extension(authority, False)

    def trusted_root(self, file: Path) -> Path:
        """Write the keys of the instance."""
        valid = {"start": "2025-01-01T00:00:00Z"}

        def log(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
            public = {
                "rawBytes": _base64(_public_bytes(key)),
                "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                "validFor": valid,
            }
            key_id = {"keyId": _base64(hashlib.sha256(_public_bytes(key)).digest())}
            return {"baseUrl": "https://log.test", "hashAlgorithm": "SHA2_256", "publicKey": public, "logId": key_id}

        chain = {"certificates": [{"rawBytes": _base64(self._authority.public_bytes(Encoding.DER))}]}
        authority = {"subject": {"organization": "test", "commonName": "test"}, "uri": "https://ca.test"}
        values = {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [log(self._log)],
            "certificateAuthorities": [{**authority, "certChain": chain, "validFor": valid}],
            "ctlogs": [log(self._certificates)],
        }
        file.write_text(json.dumps(values), encoding="utf-8")
        return file

    def sign(self, file: Path, identity: str, issuer: str) -> Path:
        """Write `FILE.sigstore.json`, the signature of a file."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._certificate(key, identity, issuer)
        content, digest = file.read_bytes(), hashlib.sha256(file.read_bytes())
        signature = key.sign(content, _SHA256)
        pem = _base64(certificate.public_bytes(Encoding.PEM))
        spec = {
            "data": {"hash": {"algorithm": "sha256", "value": digest.hexdigest()}},
            "signature": {"content": _base64(signature), "publicKey": {"content": pem}},
        }
        body = _canonical({"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": spec})
        values = {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {
                "certificate": {"rawBytes": _base64(certificate.public_bytes(Encoding.DER))},
                "tlogEntries": [self._entry(body)],
            },
            "messageSignature": {
                "messageDigest": {"algorithm": "SHA2_256", "digest": _base64(digest.digest())},
                "signature": _base64(signature),
            },
        }
        written = file.with_name(f"{file.name}.sigstore.json")
        written.write_text(json.dumps(values), encoding="utf-8")
        return written

    def _certificate(self, key: ec.EllipticCurvePrivateKey, identity: str, issuer: str) -> x509.Certificate:
        """Issue a certificate with the timestamp of the log of certificates."""
        builder = self._builder(self._authority.subject, key).subject_name(x509.Name([]))
        for extension, critical in (
            (_usage("digital_signature"), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False),
            (x509.SubjectAlternativeName([x509.RFC822Name(identity)]), True),
            (x509.UnrecognizedExtension(_ISSUER, issuer.encode()), False),
        ):
            builder = builder.add_extension(extension, critical)
        to_be_signed = builder.sign(self._root, hashes.SHA256()).tbs_certificate_bytes
        milliseconds = int(_NOW.timestamp() * 1000)
        issuer_key = hashlib.sha256(_public_bytes(self._root)).digest()
        entry = issuer_key + struct.pack("!I", len(to_be_signed))[1:] + to_be_signed
        signed = struct.pack("!BBQH", 0, 0, milliseconds, 1) + entry + struct.pack("!H", 0)
        signature = self._certificates.sign(signed, _SHA256)
        log_id = hashlib.sha256(_public_bytes(self._certificates)).digest()
        timestamp = struct.pack("!B32sQHBBH", 0, log_id, milliseconds, 0, 4, 3, len(signature)) + signature
        listed = struct.pack("!HH", len(timestamp) + 2, len(timestamp)) + timestamp
        octets = bytes([0x04, len(listed)]) + listed  # DER; shorter than 128 bytes
        if len(listed) > 127:
            octets = bytes([0x04, 0x81, len(listed)]) + listed
        builder = builder.add_extension(x509.UnrecognizedExtension(_TIMESTAMPS, octets), False)
        return builder.sign(self._root, hashes.SHA256())

    def _entry(self, body: bytes) -> dict[str, Any]:
        """Return the entry of a log that has no other one."""
        log_id, seconds = hashlib.sha256(_public_bytes(self._log)).digest(), int(_NOW.timestamp()) + 60
        root = hashlib.sha256(b"\0" + body).digest()
        note = f"log.test\n1\n{_base64(root)}\n"
        signed_note = _base64(log_id[:4] + self._log.sign(note.encode(), _SHA256))
        promise = {"body": _base64(body), "integratedTime": seconds, "logID": log_id.hex(), "logIndex": 0}
        return {
            "logIndex": "0",
            "logId": {"keyId": _base64(log_id)},
            "kindVersion": {"kind": "hashedrekord", "version": "0.0.1"},
            "integratedTime": str(seconds),
            "inclusionPromise": {"signedEntryTimestamp": _base64(self._log.sign(_canonical(promise), _SHA256))},
            "inclusionProof": {
                **{"logIndex": "0", "rootHash": _base64(root), "treeSize": "1", "hashes": []},
                "checkpoint": {"envelope": f"{note}\n\N{EM DASH} log.test {signed_note}\n"},
            },
            "canonicalizedBody": _base64(body),
        }


def _canonical(values: dict[str, Any]) -> bytes:
    """Return canonical JSON (RFC 8785) of texts and integers."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
