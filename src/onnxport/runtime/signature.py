"""Verify who signed an exported directory, with Sigstore.

The signature is that of `onnxport.json`, which has the digests of all other files; `sigstore sign` writes it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from onnxport.bundles.manifest import FILE_NAME
from onnxport.errors import MissingDependencyError, OptionError

SIGNATURE = f"{FILE_NAME}.sigstore.json"
"""The file beside the manifest that `sigstore sign` writes."""
_MAX_BYTES = 1 << 20
"""A signature has about 5 kB."""


@dataclass(frozen=True)
class Signer:
    """Say who must have signed a directory.

    Attributes:
        identity: email address, or URI of a workflow, in the certificate of the signature.
        issuer: URL of the provider that vouched for the identity, such as `https://accounts.google.com`.
        trusted_root: file with the keys of a Sigstore instance; None for the public one, with the keys that the
            installed package has: nothing is downloaded.
    """

    identity: str
    issuer: str
    trusted_root: str | Path | None = None


def signature_problem(directory: Path, signer: Signer) -> str:
    """Verify the signature of a directory's manifest.

    Args:
        directory: the exported directory.
        signer: who must have signed it.

    Returns:
        What is wrong; empty if the signature is valid.

    Raises:
        MissingDependencyError: sigstore isn't installed.
        OptionError: the trusted root can't be read.
    """
    try:
        from sigstore.errors import Error
        from sigstore.models import Bundle, ClientTrustConfig, TrustedRoot
        from sigstore.verify import Verifier
        from sigstore.verify.policy import Identity
    except ImportError as error:
        raise MissingDependencyError(
            'verifying a signature needs sigstore: pip install "onnxport[sigstore]"'
        ) from error
    logging.getLogger("sigstore").setLevel(logging.ERROR)  # it warns that it downloads nothing
    file = directory / SIGNATURE
    if not file.is_file():
        return f"{SIGNATURE} is missing: nobody signed the directory (sigstore sign {FILE_NAME} does)"
    if file.stat().st_size > _MAX_BYTES:
        return f"{SIGNATURE} has {file.stat().st_size} bytes; a signature has at most {_MAX_BYTES}"
    root = signer.trusted_root
    try:
        trusted = (
            ClientTrustConfig.production(offline=True).trusted_root
            if root is None
            else TrustedRoot.from_file(str(root))
        )
        verifier = Verifier(trusted_root=trusted)
    except (Error, ValueError, OSError) as error:
        name = "of the public instance" if root is None else root
        raise OptionError(f"the trusted root {name} can't be read: {error}") from error
    try:
        bundle = Bundle.from_json(file.read_bytes())
        policy = Identity(identity=signer.identity, issuer=signer.issuer)
        verifier.verify_artifact((directory / FILE_NAME).read_bytes(), bundle, policy)
    except (Error, ValueError, OSError) as error:
        return f"{SIGNATURE} isn't a signature of {FILE_NAME} by {signer.identity} of {signer.issuer}: {error}"
    return ""
