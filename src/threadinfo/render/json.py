"""The JSON report, `threadinfo.report/1` (docs/report.schema.json), written and read again."""

from __future__ import annotations

import re

import msgspec

from threadinfo.errors import BadInputError
from threadinfo.model import Confidence, DelayEvent, DescriptorEvent, Report
from threadinfo.render.escape import Printable

_TO_ESCAPE = re.compile(r"[^\x20-\x7e\n]")


def render_json(report: Report) -> Printable:
    """The report as indented ASCII, ending in a newline: no character of the target's reaches a terminal as it is."""
    return _to_ascii(msgspec.json.format(msgspec.json.encode(report), indent=2))


def encode_ascii(value: msgspec.Struct) -> Printable:
    """One value on one line that ends in a line break, as ASCII."""
    return _to_ascii(msgspec.json.encode(value))


def _to_ascii(encoded: bytes) -> Printable:
    """JSON itself escapes what is below a space."""
    text = encoded.decode() + "\n"
    if text.isascii() and "\x7f" not in text:
        return Printable(text)
    return Printable(_TO_ESCAPE.sub(lambda match: _escape(match[0]), text))


def _escape(character: str) -> str:
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))


def parse_json(data: bytes, name: str) -> Report:
    """A saved report; raises BadInputError that says what is wrong and where. `name` is the file's, for the message."""
    try:
        return msgspec.json.decode(data, type=Report)
    except RecursionError:
        raise BadInputError(f"{name} is nested too deeply to be a threadinfo.report/1") from None
    except msgspec.ValidationError as problem:
        raise BadInputError(
            f"{name} is not a threadinfo.report/1: {problem}",
            "make one with: threadinfo report TARGET --format json -o FILE",
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise BadInputError(
            f"{name} is not JSON: {problem}", "make one with: threadinfo report TARGET --format json -o FILE"
        ) from None


def report_schema() -> bytes:
    """The JSON Schema of the report, from the model; docs/report.schema.json is a copy that a test compares."""
    schema = msgspec.json.schema(Report)
    for definition in schema["$defs"].values():  # a report is written with every field, whatever its value
        definition["required"] = list(definition["properties"])
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "threadinfo.report/1"
    return msgspec.json.format(msgspec.json.encode(schema), indent=2) + b"\n"


def events_schema() -> bytes:
    """The JSON Schema of a line of the live stream; docs/events.schema.json is a copy that a test compares."""
    models = (DescriptorEvent, DelayEvent, Confidence)
    event_kinds, definitions = msgspec.json.schema_components(models, ref_template="#/$defs/{name}")
    last = {"type": "object", "properties": {"confidence": event_kinds[2]}, "required": ["confidence"]}
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "a line of threadinfo trace --format json: an event, or the confidence block at the end",
        "anyOf": [*event_kinds[:2], last],
        "$defs": definitions,
    }
    return msgspec.json.format(msgspec.json.encode(schema), indent=2) + b"\n"
