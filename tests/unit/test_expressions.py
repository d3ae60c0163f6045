"""Expressions: their values, byte ranges, memory use and JSON."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxport.weights import building
from onnxport.weights.expressions import CHUNK, ByteRange, Cast, Concatenate, Expression, InMemory, Slice, Stored
from tests.unit.weights_files import Array, checkpoint

RANDOM = np.random.default_rng(0)


class Bytes:
    """A file in memory that records reads."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.reads: list[ByteRange] = []

    def read(self, where: ByteRange, /) -> Array:
        self.reads.append(where)
        return np.frombuffer(self.content, np.uint8)[where.offset : where.offset + where.nbytes].copy()


def stored(*shape: int, begin: int = 0, key: str = "w") -> Stored:
    size = int(np.prod(shape)) * 4
    return Stored("f", key, ir.DataType.FLOAT, shape, begin, begin + size)


def values(*shape: int, count: int = 1) -> tuple[Bytes, list[Array]]:
    arrays = [RANDOM.standard_normal(shape).astype(np.float32) for _ in range(count)]
    return Bytes(b"".join(array.tobytes() for array in arrays)), arrays


def random_expression(generator: random.Random, of: Expression, array: Array) -> tuple[Expression, Array]:
    """Apply a random operation to the expression and to the array."""
    axis = generator.randrange(array.ndim)
    match generator.choice(["transpose", "reshape", "slice", "concatenate", "cast"]):
        case "transpose":
            axes = generator.sample(range(array.ndim), array.ndim)
            return building.transpose(of, axes), array.transpose(axes)
        case "reshape":
            sizes = generator.choice([[-1], [2, -1], [-1, 2], [1, 2, -1]])
            array = array.reshape(sizes)
            return building.reshape(of, array.shape), array
        case "slice" if array.shape[axis] >= 4:
            start = 2 * generator.randrange(2)
            return building.cut(of, axis, start, array.shape[axis]), array.take(range(start, array.shape[axis]), axis)
        case "cast":
            array = array.astype(np.float16).astype(np.float32)
            return building.cast(building.cast(of, ir.DataType.FLOAT16), ir.DataType.FLOAT), array
    other = building.cut(of, axis, 0, array.shape[axis])
    return building.concatenate([of, other], axis), np.concatenate([array, array], axis)


@pytest.mark.parametrize("seed", range(60))
def test_any_sequence_of_operations_equals_numpys(seed: int) -> None:
    generator = random.Random(seed)
    reader, (array,) = values(4, 6, 2)
    expression: Expression = stored(4, 6, 2)
    for _ in range(generator.randrange(1, 6)):
        expression, array = random_expression(generator, expression, array)
    assert expression.shape == array.shape
    assert expression.nbytes == array.nbytes
    np.testing.assert_array_equal(expression.evaluate(reader), array)
    np.testing.assert_array_equal(
        np.concatenate([chunk.copy() for chunk in expression.chunks(reader)]), array.reshape(-1)
    )
    again = building.from_json(json.loads(json.dumps(building.to_json(expression))))
    assert again == expression and hash(again) == hash(expression)
    if expression.contiguous is not None:
        np.testing.assert_array_equal(reader.read(expression.contiguous).view(np.float32), array.reshape(-1))


def test_unchanged_tensors_are_recognized() -> None:
    tensor = stored(4, 6, begin=100)
    assert tensor.contiguous == ByteRange("f", 100, 96)
    assert building.reshape(tensor, [24]).contiguous == tensor.contiguous
    assert building.cut(tensor, 0, 1, 3).contiguous == ByteRange("f", 124, 48)
    assert building.cut(building.cut(tensor, 0, 1, 3), 0, 1, 2).contiguous == ByteRange("f", 148, 24)
    assert building.cut(tensor, 1, 0, 3).contiguous is None
    assert building.cut(building.reshape(tensor, [1, 24]), 1, 2, 5).contiguous == ByteRange("f", 108, 12)
    assert building.transpose(tensor, [1, 0]).contiguous is None
    assert building.transpose(building.reshape(tensor, [24, 1]), [1, 0]).contiguous == tensor.contiguous
    assert building.cast(tensor, ir.DataType.FLOAT16).contiguous is None


def test_adjacent_ranges_are_merged() -> None:
    first, second, third = stored(2, 3, begin=8), stored(4, 3, begin=32), stored(2, 3, begin=200)
    assert building.concatenate([first, second], 0).contiguous == ByteRange("f", 8, 72)
    assert building.concatenate([second, first], 0).contiguous is None
    assert building.concatenate([first, third], 0).contiguous is None
    assert building.concatenate([first, third], 1).contiguous is None


def test_operations_without_effect_are_removed() -> None:
    tensor = stored(4, 6)
    assert building.cast(tensor, ir.DataType.FLOAT) is tensor
    assert building.reshape(building.reshape(tensor, [24]), [4, 6]) is tensor
    assert building.transpose(building.transpose(tensor, [1, 0]), [1, 0]) is tensor
    assert building.cut(tensor, 0, 0, 4) is tensor
    assert building.concatenate([tensor], 1) is tensor
    assert building.cut(building.cast(tensor, ir.DataType.FLOAT16), 0, 0, 1) == Cast(
        Slice(tensor, 0, 0, 1), ir.DataType.FLOAT16
    )


def test_a_slice_reads_only_its_rows() -> None:
    reader, (array,) = values(100, 10)
    rows = building.cast(building.cut(stored(100, 10), 0, 10, 12), ir.DataType.FLOAT16)
    np.testing.assert_array_equal(rows.evaluate(reader), array[10:12].astype(np.float16))
    assert reader.reads == [ByteRange("f", 400, 80)]


def test_a_cast_is_streamed_in_chunks() -> None:
    reader, (array,) = values(3, CHUNK)
    expression = building.concatenate([building.cast(stored(3, CHUNK), ir.DataType.FLOAT16)] * 2, 0)
    chunks = [chunk.copy() for chunk in expression.chunks(reader)]
    assert max(chunk.size for chunk in chunks) == CHUNK
    assert max(read.nbytes for read in reader.reads) == 4 * CHUNK
    np.testing.assert_array_equal(
        np.concatenate(chunks).reshape(expression.shape), np.tile(array, (2, 1)).astype(np.float16)
    )


def test_merged_experts_read_one_tensor_at_a_time() -> None:
    reader, arrays = values(5, 7, count=6)
    parts = [building.reshape(stored(5, 7, begin=140 * index), [1, 5, 7]) for index in range(6)]
    expression = building.concatenate([building.concatenate(parts[:3], 0), building.concatenate(parts[3:], 0)], 1)
    np.testing.assert_array_equal(
        expression.evaluate(reader), np.concatenate([np.stack(arrays[:3]), np.stack(arrays[3:])], axis=1)
    )
    assert max(read.nbytes for read in reader.reads) == 140
    assert len(reader.reads) == 6


def test_a_product_is_added_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum is float32 for any dtype of the base, and a slice of it reads only a slice of the base."""
    monkeypatch.setattr("onnxport.weights.arithmetic.CHUNK", 12)
    generator = np.random.default_rng(0)
    base, up, down = (generator.normal(size=sizes).astype(np.float16) for sizes in ((7, 6), (7, 2), (2, 6)))
    norms = generator.normal(size=7).astype(np.float32)
    expected = base.astype(np.float32) + 1.5 * (up.astype(np.float32) @ down.astype(np.float32))
    made = building.low_rank(InMemory(base), InMemory(up), InMemory(down), 1.5)
    long = building.rescaled(made, InMemory(norms))
    wanted_long = expected / np.linalg.norm(expected, axis=1)[:, None] * norms[:, None]
    for expression, values in ((made, expected), (long, wanted_long), (building.cut(made, 0, 2, 5), expected[2:5])):
        again = building.from_json(json.loads(json.dumps(building.to_json(expression))))
        for one in (expression, again, building.rebuilt(expression, expression.children)):
            assert one.dtype == ir.DataType.FLOAT and one.shape == values.shape and one.contiguous is None
            np.testing.assert_allclose(one.evaluate(Bytes(b"")), values, rtol=1e-5, atol=1e-6)
            chunks = [chunk.copy() for chunk in one.chunks(Bytes(b""))]
            assert max(chunk.size for chunk in chunks) <= 12
            np.testing.assert_allclose(np.concatenate(chunks).reshape(values.shape), values, rtol=1e-5, atol=1e-6)
            turned = building.transpose(one, (1, 0)).evaluate(Bytes(b""))
            np.testing.assert_allclose(turned, values.T, rtol=1e-5, atol=1e-6)


def test_products_with_mismatched_shapes_are_errors() -> None:
    of = stored(4, 6)
    for up, down in (((4, 2), (2, 5)), ((3, 2), (2, 6)), ((4, 2), (3, 6)), ((4,), (2, 6))):
        with pytest.raises(ValueError, match="can't be"):
            building.low_rank(of, stored(*up), stored(*down), 1.0)
    with pytest.raises(ValueError, match="norms"):
        building.rescaled(of, stored(6))
    with pytest.raises(TypeError, match="FLOAT16"):
        building.rescaled(building.cast(of, ir.DataType.FLOAT16), stored(4))


def test_scales_are_multiplied_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxport.weights.arithmetic.CHUNK", 24)
    reader, (array,) = values(8, 6)
    scales = RANDOM.standard_normal((1, 4, 1, 2, 1)).astype(np.float32)
    expression = building.product(building.reshape(stored(8, 6), (1, 4, 2, 2, 3)), InMemory(scales))
    expected = array.reshape(1, 4, 2, 2, 3) * scales
    for one in (
        expression,
        building.from_json(building.to_json(expression)),
        building.rebuilt(expression, expression.children),
    ):
        np.testing.assert_array_equal(one.evaluate(reader), expected)
        chunks = [chunk.copy() for chunk in one.chunks(reader)]
        assert [chunk.size for chunk in chunks] == [24, 24]
        np.testing.assert_array_equal(np.concatenate(chunks), expected.reshape(-1))
    assert max(read.nbytes for read in reader.reads) <= 24 * 4
    with pytest.raises(TypeError, match="FLOAT16"):
        building.product(building.cast(stored(8, 6), ir.DataType.FLOAT16), stored(8, 6))
    with pytest.raises(ValueError, match="broadcast"):
        building.product(stored(8, 6), stored(8, 3))


def test_4_bit_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    """The specification's table: sign, two exponent bits, one mantissa bit; the lower half of a byte is first."""
    monkeypatch.setattr("onnxport.weights.arithmetic.CHUNK", 16)
    blocks = np.arange(256, dtype=np.uint8).reshape(4, 4, 2, 8)
    scales = np.arange(118, 150, dtype=np.uint8).reshape(4, 4, 2)

    def number(code: int) -> float:
        exponent, mantissa = code >> 1 & 3, code & 1
        return (-1.0) ** (code >> 3) * (mantissa / 2 if not exponent else (1 + mantissa / 2) * 2.0 ** (exponent - 1))

    expected = np.array([[number(byte & 15), number(byte >> 4)] for byte in range(256)]).reshape(4, 4, 2, 16)
    expected = (expected * 2.0 ** (scales.astype(float) - 127)[..., None]).reshape(4, 4, 32)
    expression = building.mxfp4(InMemory(blocks), InMemory(scales))
    for one in (
        expression,
        building.from_json(building.to_json(expression)),
        building.rebuilt(expression, expression.children),
    ):
        np.testing.assert_array_equal(one.evaluate(Bytes(b"")), expected)
        np.testing.assert_array_equal(
            np.concatenate([chunk.copy() for chunk in one.chunks(Bytes(b""))]), expected.ravel()
        )
        turned = building.transpose(one, (0, 2, 1)).evaluate(Bytes(b""))
        np.testing.assert_array_equal(turned, expected.transpose(0, 2, 1))
    with pytest.raises(ValueError, match="scales"):
        building.mxfp4(InMemory(blocks), InMemory(scales[:2]))
    with pytest.raises(TypeError, match="MXFP4"):
        building.mxfp4(InMemory(blocks.astype(np.int8)), InMemory(scales))


def test_casts_without_effect_are_removed() -> None:
    half = [building.cast(stored(4, 6), ir.DataType.FLOAT16) for _ in range(2)]
    joined = building.transpose(building.concatenate(half, 0), [1, 0])
    assert building.uncast(joined) == building.transpose(building.concatenate([stored(4, 6)] * 2, 0), [1, 0])
    mixed = building.concatenate([half[0], InMemory(np.zeros((4, 6), np.float16))], 0)
    assert building.uncast(mixed) == mixed


def test_small_arrays_in_memory_are_serialized() -> None:
    array = RANDOM.standard_normal((3, 4))
    again = building.from_json(building.to_json(building.transpose(InMemory(array), [1, 0])))
    np.testing.assert_array_equal(again.evaluate(Bytes(b"")), array.T)
    with pytest.raises(ValueError, match="can't be written as JSON"):
        building.to_json(InMemory(np.zeros(building.MAX_JSON_BYTES + 1, np.uint8)))


@pytest.mark.parametrize(
    "value",
    [
        None, [], {}, {"Nonsense": []}, {"Stored": []}, {"Stored": ["f", "k", "FLOAT", [2], 0, 4]},
        {"Stored": ["f", "k", "NONE", [1], 0, 4]}, {"Cast": ["FLOAT"]},
        {"Slice": [0, 0, 9, 1, {"Stored": ["f", "k", "FLOAT", [2], 0, 8]}]},
        {"Reshape": [[3], {"Stored": ["f", "k", "FLOAT", [2], 0, 8]}]},
        {"InMemory": ["FLOAT", [2], "AAAA"]}, {"Concatenate": [0]},
    ],
)  # fmt: skip
def test_damaged_json_is_an_error(value: Any) -> None:
    with pytest.raises(ValueError, match="isn't an expression"):
        building.from_json(value)


@pytest.mark.parametrize(
    "build",
    [
        lambda of: building.reshape(of, [5]),
        lambda of: building.transpose(of, [0, 0]),
        lambda of: building.cut(of, 0, 2, 9),
        lambda of: building.concatenate([], 0),
        lambda of: building.concatenate([of, stored(4, 5)], 0),
        lambda of: building.concatenate([of, building.cast(of, ir.DataType.FLOAT16)], 0),
    ],
)
def test_invalid_expressions_are_an_error(build: Any) -> None:
    with pytest.raises(ValueError, match=r"\[4, 6\]|nothing"):
        build(stored(4, 6))


def test_a_cast_whose_rounding_is_unknown_is_an_error() -> None:
    with pytest.raises(TypeError, match="no cast from FLOAT to FLOAT8E4M3FN"):
        building.cast(stored(4), ir.DataType.FLOAT8E4M3FN)


def test_values_are_compared_in_blocks_and_stop_at_the_first_difference(tmp_path: Path) -> None:
    array = RANDOM.standard_normal((3000, 3000)).astype(np.float32)
    changed = array.copy()
    changed[0, 0] += 1
    inventory, reader = checkpoint(tmp_path, model={"a": array, "b": array, "c": changed})
    a, b, c = (inventory.tensors[name] for name in "abc")
    with reader:
        assert building.equal_values(a, b, reader)
        assert not building.equal_values(a, c, reader)
        reads: list[int] = []
        read = reader.read
        reader.read = lambda where: (reads.append(where.nbytes), read(where))[1]  # type: ignore[method-assign]
        assert not building.equal_values(a, c, reader)
    assert sum(reads) < array.nbytes


def test_empty_operands_are_removed() -> None:
    expression = building.concatenate([stored(0, 3), stored(2, 3), stored(0, 3)], 0)
    assert expression == stored(2, 3)
    assert isinstance(building.concatenate([stored(2, 3), stored(2, 3, begin=24)], 1), Concatenate)
