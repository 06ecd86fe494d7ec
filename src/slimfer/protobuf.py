"""The wire format of protobuf, as far as a checker of ONNX files needs it; whatever is no protobuf is an InputError."""

from collections.abc import Iterator

from slimfer.errors import InputError

Value = int | memoryview
Field = tuple[int, int, Value]


def fields(data: memoryview, what: str) -> Iterator[Field]:
    """Yield (field number, wire type, value) of one message: an int, or a view of the bytes."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, position = _varint(data, position)
            yield number, wire, value
            continue
        if wire == 2:
            size, position = _varint(data, position)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise InputError(f"not ONNX: the {what} has a field of unknown wire type {wire}")
        if number == 0 or size > len(data) - position:
            raise InputError(f"not ONNX: the {what} ends inside a field")
        yield number, wire, data[position : position + size]
        position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for index in range(10):
        if position + index >= len(data):
            break
        byte = data[position + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise InputError("not ONNX: a number without an end")


def varints(data: memoryview) -> Iterator[int]:
    """Yield the numbers of a packed field."""
    position = 0
    while position < len(data):
        value, position = _varint(data, position)
        yield value


def message(value: Value) -> memoryview:
    """Return a value that has to be bytes."""
    if isinstance(value, int):
        raise InputError("not ONNX: a number where a message should be")
    return value


def text(value: Value) -> str:
    """Return a value that has to be UTF-8."""
    try:
        return bytes(message(value)).decode()
    except UnicodeDecodeError:
        raise InputError("not ONNX: text that is not UTF-8") from None


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode(number: int, wire: int, value: Value | bytes) -> bytes:
    """Return one field as bytes."""
    tag = _encode_varint(number << 3 | wire)
    if isinstance(value, int):
        return tag + _encode_varint(value)
    return tag + (_encode_varint(len(value)) if wire == 2 else b"") + bytes(value)
