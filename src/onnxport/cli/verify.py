"""`onnxport verify DIR`: check a directory from elsewhere, without torch and without its original."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from onnxport.cli._outcome import DONE, FAILED, print_error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("directory", metavar="DIR", help="directory that onnxport export wrote")
    text = "SHA-256 that onnxport.json must have, which has the digests of all other files (default: any)"
    parser.add_argument("--sha256", metavar="DIGEST", help=text)
    text = "email address or workflow that must have signed onnxport.json with Sigstore (default: anyone, or no one)"
    parser.add_argument("--identity", metavar="WHO", help=text)
    text = "provider that vouched for --identity, such as https://accounts.google.com"
    parser.add_argument("--issuer", metavar="URL", help=text)
    text = "keys of another Sigstore instance than the public one"
    parser.add_argument("--trusted-root", metavar="FILE", help=text)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--quiet", action="store_true", help="print only errors (and --json)")


def run(arguments: argparse.Namespace) -> int:
    """Verify, and print what was compared."""
    from onnxport.cli._rendering import print_json, print_line
    from onnxport.errors import OptionError, printable
    from onnxport.runtime.signature import Signer
    from onnxport.runtime.verify import verify

    names = (arguments.identity, arguments.issuer)
    if None in names and (*names, arguments.trusted_root) != (None, None, None):
        raise OptionError("a signature is verified for --identity and --issuer: pass both (sigstore verify names them)")
    signer = Signer(*names, arguments.trusted_root) if arguments.identity is not None else None
    result = verify(arguments.directory, arguments.sha256, signer)
    if arguments.json:
        print_json(asdict(result))
    elif not arguments.quiet:
        print_line(f"onnxport.json: SHA-256 {result.manifest_sha256}")
        if not result.problems:
            print_line(f"{result.files} files have the digests of the manifest, and the graphs are well-formed")
            if signer is not None:
                print_line(printable(f"signed by {signer.identity}, whom {signer.issuer} vouched for"))
        for name in result.without_digest:
            print_line(printable(f"without a digest: {name}"))
        for dtype, reason in result.not_run.items():
            print_line(printable(f"loaded, but not run: {dtype}: {reason}"))
    for problem in result.problems:
        print_error(f"{arguments.directory}: {problem}")
    return FAILED if result.problems else DONE
