"""`onnxport cache list` and `onnxport cache clear`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from datetime import UTC, datetime
from math import inf

from onnxport.blueprints.store import Store
from onnxport.cli._outcome import DONE
from onnxport.errors import OptionError

_DAY = 24 * 3600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("action", choices=("list", "clear"), help="list the entries of the cache, or remove them")
    text = "clear: remove only entries that weren't used for DAYS days"
    parser.add_argument("--older-than", type=_days, metavar="DAYS", help=text)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """List or clear the cache."""
    if arguments.action == "clear":
        return _clear(arguments.older_than, json=arguments.json)
    if arguments.older_than is not None:
        raise OptionError("--older-than goes with clear: onnxport cache clear --older-than DAYS")
    return _list(json=arguments.json)


def _list(*, json: bool) -> int:
    from onnxport.cli._rendering import print_json, print_line, print_table
    from onnxport.reports.formats import bytes_text

    store = Store()
    entries = store.entries()
    total = sum(entry.bytes for entry in entries)
    if json:
        listed = [
            {**asdict(entry), "created": _iso_time(entry.created), "used": _iso_time(entry.used)} for entry in entries
        ]
        print_json({"directory": str(store.directory), "bytes": total, "entries": listed})
        return DONE
    if entries:
        rows = [(e.type, e.label, bytes_text(e.bytes), _iso_time(e.created), _iso_time(e.used)) for e in entries]
        print_table("", ("type", "model", "size", "created", "last used"), rows)
    count = "1 entry" if len(entries) == 1 else f"{len(entries)} entries"
    print_line(f"{store.directory}: {count}, {bytes_text(total)}")
    return DONE


def _clear(older_than: float | None, *, json: bool) -> int:
    from onnxport.cli._rendering import print_json, print_line
    from onnxport.reports.formats import bytes_text

    store = Store()
    cleared = store.clear(older_than=None if older_than is None else older_than * _DAY)
    if json:
        print_json({"directory": str(store.directory), **asdict(cleared)})
        return DONE
    count = "1 entry" if cleared.entries == 1 else f"{cleared.entries} entries"
    print_line(f"{store.directory}: removed {count}, {bytes_text(cleared.bytes)}")
    return DONE


def _iso_time(seconds: float) -> str:
    """Format a time as ISO 8601, in UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not 0 <= days < inf:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a number of days that is zero or more")
    return days
