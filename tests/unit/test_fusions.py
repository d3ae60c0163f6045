"""Fused graphs compute what the graphs before fusion compute."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

from onnxport.fusions.fuse import fuse, fused_operators
from onnxport.options import Optimize
from onnxport.runtime.graph import Graph
from onnxport.runtime.settings import RunSettings

Arrays = dict[str, np.ndarray]

ROTATION = """
    cos = Cos(angles)
    sin = Sin(angles)
    cos_of_heads = Unsqueeze(cos, axis)
    sin_of_heads = Unsqueeze(sin, axis)
    direct = Mul(states, cos_of_heads)
    upper = Slice(states, four, eight, three, one)
    lower = Slice(states, zero, four, three, one)
    negated = Neg(upper)
    turned = Concat<axis = -1>(negated, lower)
    indirect = Mul(turned, sin_of_heads)
"""
ROTARY = f"""
g (float[B, 2, S, 8] states, float[B, S, 4] half) => (float[B, 2, S, 8] y)
<int64[1] axis = {{1}}, int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] three = {{3}}, int64[1] four = {{4}},
 int64[1] eight = {{8}},
 float[B, S, 8] angles, float[B, S, 8] cos, float[B, S, 8] sin,
 float[B, 1, S, 8] cos_of_heads, float[B, 1, S, 8] sin_of_heads> {{
    angles = Concat<axis = -1>(half, half)
    {ROTATION}
    y = Add(direct, indirect)
}}"""
ROTARY_BEFORE_TRANSPOSE = ROTARY.replace("B, 2, S, 8", "B, S, 2, 8").replace("B, 1, S, 8", "B, S, 1, 8")
ROTARY_BEFORE_TRANSPOSE = ROTARY_BEFORE_TRANSPOSE.replace("axis = {1}", "axis = {2}")
ROTARY_OF_SHARED_POSITIONS = ROTARY.replace("[B, S, 4] half", "[1, S, 4] half").replace("[B, S, 8]", "[1, S, 8]")
ROTARY_OF_SHARED_POSITIONS = ROTARY_OF_SHARED_POSITIONS.replace("[B, 1, S, 8]", "[1, 1, S, 8]")
ROTARY_OF_NEIGHBOURS = """
g (float[B, 2, S, 8] states, float[B, S, 4] half) => (float[B, 2, S, 8] y)
<int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3}, int64[1] eight = {8},
 int64[1] last = {-1}, int64[4] twice = {1, 1, 1, 2}, int64[3] tokens_shape = {0, 0, 8}, int64[4] shape = {0, 0, 0, 8},
 float[B, S, 8] angles, float[B, S, 8] cos, float[B, S, 8] sin, float[B, 1, S, 8] cos_of_heads,
 float[B, 1, S, 8] sin_of_heads, float[B, 2, S, 4] odd, float[B, 2, S, 4] even, float[B, 2, S, 4] negated,
 float[B, 2, S, 8] turned> {
    column = Unsqueeze(half, three)
    tiled = Tile(column, twice)
    angles = Reshape(tiled, tokens_shape)
    cos = Cos(angles)
    sin = Sin(angles)
    cos_of_heads = Unsqueeze(cos, one)
    sin_of_heads = Unsqueeze(sin, one)
    direct = Mul(states, cos_of_heads)
    even = Slice(states, zero, eight, three, two)
    odd = Slice(states, one, eight, three, two)
    negated = Neg(odd)
    odd_column = Unsqueeze(negated, last)
    even_column = Unsqueeze(even, last)
    columns = Concat<axis = -1>(odd_column, even_column)
    turned = Reshape(columns, shape)
    indirect = Mul(turned, sin_of_heads)
    y = Add(direct, indirect)
}"""
ROTARY_OF_TWO_HALVES = """
g (float[B, 2, S, 8] states, float[B, S, 4] half) => (float[B, 2, S, 8] y)
<int64[1] one = {1}, float[B, S, 4] cos, float[B, S, 4] sin, float[B, 1, S, 4] cos_of_heads,
 float[B, 1, S, 4] sin_of_heads, float[B, 2, S, 4] a, float[B, 2, S, 4] b> {
    cos = Cos(half)
    sin = Sin(half)
    cos_of_heads = Unsqueeze(cos, one)
    sin_of_heads = Unsqueeze(sin, one)
    a, b = Split<axis = 3, num_outputs = 2>(states)
    a_cos = Mul(a, cos_of_heads)
    b_sin = Mul(b, sin_of_heads)
    first = Sub(a_cos, b_sin)
    b_cos = Mul(b, cos_of_heads)
    a_sin = Mul(a, sin_of_heads)
    second = Add(b_cos, a_sin)
    y = Concat<axis = -1>(first, second)
}"""
PARTLY_ROTARY = f"""
g (float[B, 2, S, 12] head, float[B, S, 4] half) => (float[B, 2, S, 12] y)
<int64[1] axis = {{1}}, int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] three = {{3}}, int64[1] four = {{4}},
 int64[1] eight = {{8}}, int64[1] twelve = {{12}}, float[B, S, 8] angles, float[B, S, 8] cos, float[B, S, 8] sin,
 float[B, 1, S, 8] cos_of_heads, float[B, 1, S, 8] sin_of_heads, float[B, 2, S, 8] states> {{
    angles = Concat<axis = -1>(half, half)
    states = Slice(head, zero, eight, three, one)
    rest = Slice(head, eight, twelve, three, one)
    {ROTATION}
    rotated = Add(direct, indirect)
    y = Concat<axis = -1>(rotated, rest)
}}"""
RMS_NORM = """
g (float[B, S, 8] x) => (float[B, S, 8] y)
<int64[1] last = {-1}, float two = {2.0}, float epsilon = {0.01}, float one = {1.0},
 float[8] weight = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8}, float[8] gain> {
    gain = Add(weight, one)
    square = Pow(x, two)
    mean = ReduceMean<keepdims = 1>(square, last)
    total = Add(mean, epsilon)
    root = Sqrt(total)
    inverse = Reciprocal(root)
    normalized = Mul(x, inverse)
    y = Mul(normalized, gain)
}"""
RMS_NORM_IN_FLOAT32 = """
g (float[B, S, 8] x) => (float[B, S, 8] y)
<int64[1] last = {-1}, float two = {2.0}, float epsilon = {0.01}, float16[8] weight = {1, 2, 3, 4, 5, 6, 7, 8},
 float16[B, S, 8] narrow, float[B, S, 8] wide, float16[B, S, 8] normalized, float16[B, S, 8] weighted> {
    narrow = Cast<to = 10>(x)
    wide = Cast<to = 1>(narrow)
    square = Pow(wide, two)
    mean = ReduceMean<keepdims = 1>(square, last)
    total = Add(mean, epsilon)
    root = Sqrt(total)
    inverse = Reciprocal(root)
    product = Mul(wide, inverse)
    normalized = Cast<to = 10>(product)
    weighted = Mul(weight, normalized)
    y = Cast<to = 1>(weighted)
}"""
UNWEIGHTED = """
g (float[B, S, 8] x) => (float[B, S, 8] y)
<int64[1] last = {-1}, float two = {2.0}, float epsilon = {0.01}, float exponent = {-0.5}> {
    square = Pow(x, two)
    mean = ReduceMean<keepdims = 1>(square, last)
    total = Add(mean, epsilon)
    inverse = Pow(total, exponent)
    y = Mul(x, inverse)
}"""
GELU_WITH_POWER = """
g (float[B, S, 8] x) => (float[B, S, 8] y)
<float half = {0.5}, float three = {3.0}, float a = {0.044715}, float b = {0.7978846}, float one = {1.0}> {
    halved = Mul(x, half)
    cube = Pow(x, three)
    scaled = Mul(cube, a)
    sum = Add(x, scaled)
    argument = Mul(sum, b)
    t = Tanh(argument)
    shifted = Add(t, one)
    y = Mul(halved, shifted)
}"""
GELU_WITH_PRODUCTS = """
g (float[B, S, 8] x) => (float[B, S, 8] y)
<float half = {0.5}, float a = {0.044715}, float b = {0.7978846}, float one = {1.0}> {
    scaled = Mul(a, x)
    square = Mul(scaled, x)
    factor = Add(one, square)
    linear = Mul(b, x)
    argument = Mul(linear, factor)
    t = Tanh(argument)
    shifted = Add(one, t)
    product = Mul(x, shifted)
    y = Mul(half, product)
}"""
SHAPES = {"states": (2, 2, 5, 8), "head": (2, 2, 5, 12), "half": (2, 5, 4), "x": (2, 5, 8)}


def model_of(text: str) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {text}'))


def outputs(model: ir.Model, inputs: Arrays, optimized: Path | None = None) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    return [np.asarray(value) for value in session.run(None, inputs)]


def assert_fused(text: str, inputs: Arrays, expected: dict[str, int], target: Optimize = "cpu") -> ir.Model:
    """Fuse a graph, and compare it with the graph before."""
    before, model = model_of(text), model_of(text)
    fuse(model, target)
    assert fused_operators(model) == expected
    assert model.opset_imports[""] == (23 if target == "cpu" else 20)
    for found, wanted in zip(outputs(model, inputs), outputs(before, inputs), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    return model


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("text", "operator", "nodes"),
    [
        (ROTARY, "RotaryEmbedding", 3),  # and cos and sin of one half
        (PARTLY_ROTARY, "RotaryEmbedding", 3),
        (ROTARY_OF_NEIGHBOURS, "RotaryEmbedding", 3),
        (ROTARY_OF_TWO_HALVES, "RotaryEmbedding", 3),
        (ROTARY_BEFORE_TRANSPOSE, "RotaryEmbedding", 5),  # and two reshapes
        (ROTARY_OF_SHARED_POSITIONS, "RotaryEmbedding", 9),  # and, for cos and sin, the repetition for the batch
        (RMS_NORM, "RMSNormalization", 2),  # and the sum that is the weight
        (RMS_NORM_IN_FLOAT32, "RMSNormalization", 3),  # and the casts of input and output
        (UNWEIGHTED, "RMSNormalization", 1),
        (GELU_WITH_POWER, "Gelu", 1),
        (GELU_WITH_PRODUCTS, "Gelu", 1),
    ],
)
def test_operators_are_fused(text: str, operator: str, nodes: int) -> None:
    inputs = {str(value.name): random(*SHAPES[str(value.name)]) for value in model_of(text).graph.inputs}
    if text is ROTARY_BEFORE_TRANSPOSE:
        inputs["states"] = random(2, 5, 2, 8)
    if text is ROTARY_OF_SHARED_POSITIONS:
        inputs["half"] = random(1, 5, 4)
    assert len(assert_fused(text, inputs, {operator: 1}).graph) == nodes


def test_a_rotation_with_different_halves_isnt_fused() -> None:
    text = ROTARY.replace("(half, half)", "(half, other)").replace("angles =", "other = Neg(half)\nangles =")
    assert_fused(text, {"states": random(2, 2, 5, 8), "half": random(2, 5, 4)}, {})


def test_another_tanh_isnt_gelu() -> None:
    assert_fused(GELU_WITH_POWER.replace("0.044715", "0.05"), {"x": random(2, 5, 8)}, {})


@pytest.mark.parametrize(
    ("text", "operator"),
    [
        (ROTARY, "RotaryEmbedding"),
        (PARTLY_ROTARY, "RotaryEmbedding"),
        (RMS_NORM, "SimplifiedLayerNormalization"),
        (GELU_WITH_POWER, "FastGelu"),
    ],
)
def test_operators_of_onnx_runtime(text: str, operator: str) -> None:
    inputs = {str(value.name): random(*SHAPES[str(value.name)]) for value in model_of(text).graph.inputs}
    assert_fused(text, inputs, {operator: 1}, "webgpu")


def attention(
    mask: str = "B, 1, S, T", *, appended: str = "S", softcap: bool = False, empty: str = "B, 1, S, 1"
) -> str:
    """Return self-attention with 4 query heads, 2 key heads and a cache, as it is traced."""
    capped = "divided = Div(scores, cap)\nt = Tanh(divided)\ncapped = Mul(t, cap)" if softcap else ""
    return f"""
g (float[B, S, 32] q, float[B, {appended}, 16] k, float[B, {appended}, 16] v, float[{mask}] mask, bool[{empty}] empty,
   float[B, 2, P, 8] past_key, float[B, 2, P, 8] past_value)
=> (float[B, S, 32] y, float[B, 2, T, 8] present_key, float[B, 2, T, 8] present_value)
<int64[4] q_shape = {{0, 0, 4, 8}}, int64[4] k_shape = {{0, 0, 2, 8}}, int64[1] two = {{2}}, int64[1] last = {{-1}},
 int64[1] second_last = {{-2}}, int64[1] end = {{9223372036854775807}}, int64[1] start = {{-9223372036854775808}},
 int64[5] twice = {{1, 1, 2, 1, 1}}, int64[4] repeated = {{0, 4, -1, 8}}, int64[3] merged = {{0, 0, 32}},
 float scale = {{0.6}}, float zero = {{0.0}}, float cap = {{1.5}},
 float[B, S, 4, 8] q4, float[B, {appended}, 2, 8] k4, float[B, {appended}, 2, 8] v4, float[B, 4, S, 8] qt,
 float[B, 2, {appended}, 8] kt, float[B, 2, {appended}, 8] vt, float[B, 4, T, 8] keys, float[B, 4, T, 8] values,
 float[B, 4, S, 8] z, float[B, 4, S, 8] filled> {{
    q4 = Reshape(q, q_shape)
    k4 = Reshape(k, k_shape)
    v4 = Reshape(v, k_shape)
    qt = Transpose<perm = [0, 2, 1, 3]>(q4)
    kt = Transpose<perm = [0, 2, 1, 3]>(k4)
    vt = Transpose<perm = [0, 2, 1, 3]>(v4)
    present_key = Concat<axis = -2>(past_key, kt)
    present_value = Concat<axis = -2>(past_value, vt)
    k5 = Unsqueeze(present_key, two)
    k5_twice = Expand(k5, twice)
    keys = Reshape(k5_twice, repeated)
    v5 = Unsqueeze(present_value, two)
    v5_twice = Expand(v5, twice)
    values = Reshape(v5_twice, repeated)
    sizes = Shape(keys)
    width = Slice(sizes, last, end)
    length = Slice(sizes, second_last, last)
    leading = Slice(sizes, start, second_last)
    flat_shape = Concat<axis = 0>(last, length, width)
    exchanged_shape = Concat<axis = 0>(leading, width, length)
    flat = Reshape(keys, flat_shape)
    flat_exchanged = Transpose<perm = [0, 2, 1]>(flat)
    exchanged = Reshape(flat_exchanged, exchanged_shape)
    q_scaled = Mul(qt, scale)
    k_scaled = Mul(exchanged, scale)
    scores = MatMul(q_scaled, k_scaled)
    {capped}
    masked = Add({"capped" if softcap else "scores"}, mask)
    probabilities = Softmax<axis = -1>(masked)
    z = MatMul(probabilities, values)
    filled = Where(empty, zero, z)
    zt = Transpose<perm = [0, 2, 1, 3]>(filled)
    y = Reshape(zt, merged)
}}"""


def attention_inputs(batch: int, past: int, new: int, *, mask: tuple[int, ...], appended: int | None = None) -> Arrays:
    appended = new if appended is None else appended
    states = {"q": random(batch, new, 32), "k": random(batch, appended, 16), "v": random(1, batch, appended, 16)[0]}
    cache = {"past_key": random(batch, 2, past, 8), "past_value": random(1, batch, 2, past, 8)[0]}
    empty = np.zeros((batch, mask[1], new, 1), np.bool_)
    empty[0, :, 0] = True
    return {**states, **cache, "mask": random(*mask), "empty": empty}


@pytest.mark.parametrize(("batch", "past", "new"), [(2, 3, 4), (1, 0, 5), (3, 6, 1)])
@pytest.mark.parametrize("softcap", [False, True])
def test_attention_takes_several_tokens_after_a_past(batch: int, past: int, new: int, *, softcap: bool) -> None:
    inputs = attention_inputs(batch, past, new, mask=(batch, 1, new, past + new))
    model = assert_fused(attention(softcap=softcap), inputs, {"Attention": 1})
    operators = Counter(node.op_type for node in model.graph)
    assert operators == {"Attention": 1, "Where": 1, "Transpose": 1, "Squeeze": 1}  # the last two are of `empty`


CAUSAL = """
g (float[B, S, 32] q, float[B, S, 16] k, float[B, S, 16] v, int64[B, T] attention_mask, bool[B, 1, S, 1] empty,
   int64[1, 1, S, 1] rows, int64[1, 1, 1, T] columns, float[B, 2, P, 8] past_key, float[B, 2, P, 8] past_value)"""
MASK = """
    not_later = LessOrEqual(columns, rows)
    padding = Cast<to = 9>(attention_mask)
    padding_of_heads = Unsqueeze(padding, heads_and_rows)
    kept = And(not_later, padding_of_heads)
    mask = Where(kept, zero, lowest)
"""


def causal_attention(operator: str = "LessOrEqual") -> str:
    """Return self-attention whose mask is causal, and excludes padding."""
    _, graph = attention().split("=> (", 1)
    declared = "<int64[2] heads_and_rows = {1, 2}, float lowest = {-3.4e38}, float[B, 1, S, T] mask,"
    graph = graph.replace("<int64[4] q_shape", f"{declared} int64[4] q_shape", 1)
    return f"{CAUSAL} => ({graph}".replace("> {", f"> {{{MASK.replace('LessOrEqual', operator)}", 1)


def causal_inputs(batch: int, past: int, new: int) -> Arrays:
    """Return inputs whose first sequence is padded on the left."""
    total = past + new
    inputs = attention_inputs(batch, past, new, mask=(batch, 1, new, total))
    del inputs["mask"]
    kept = np.ones((batch, total), np.int64)
    kept[0, : total // 3] = 0
    inputs["empty"][:] = False
    inputs["empty"][0, :, : max(0, total // 3 - past)] = True
    rows, columns = np.arange(past, total).reshape(1, 1, -1, 1), np.arange(total).reshape(1, 1, 1, -1)
    return {**inputs, "attention_mask": kept, "rows": rows, "columns": columns}


@pytest.mark.parametrize(("batch", "past", "new"), [(2, 3, 4), (3, 0, 5), (2, 6, 1)])
@pytest.mark.parametrize(("target", "operator"), [("cuda", "GroupQueryAttention"), ("dml", "MultiHeadAttention")])
def test_padding_on_the_left_is_masked_on_gpus(
    batch: int, past: int, new: int, target: Optimize, operator: str
) -> None:
    assert_fused(causal_attention(), causal_inputs(batch, past, new), {operator: 1}, target)


def test_grouped_attention_of_a_single_sequence_needs_no_query_lengths() -> None:
    text = causal_attention().replace("[B,", "[1,")
    assert_fused(text, causal_inputs(1, 3, 4), {"GroupQueryAttention": 1}, "webgpu")


def test_a_mask_that_isnt_causal_isnt_for_grouped_attention() -> None:
    text = causal_attention("GreaterOrEqual")
    assert_fused(text, causal_inputs(2, 3, 4), {"MultiHeadAttention": 1}, "cuda")


def test_cross_attention_is_for_multi_head_attention() -> None:
    inputs = attention_inputs(2, 7, 4, mask=(2, 1, 4, 7), appended=0)
    assert_fused(attention(appended="N"), inputs, {"MultiHeadAttention": 1}, "cuda")


def test_normalization_is_fused_with_its_residual_connection_on_gpus() -> None:
    text = """
g (float[B, S, 8] x, float[B, S, 8] z) => (float[B, S, 8] y, float[B, S, 8] sum)
<float[8] weight = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0}> {
    sum = Add(x, z)
    y = LayerNormalization<axis = -1, epsilon = 0.01>(sum, weight, weight)
}"""
    inputs = {"x": random(2, 5, 8), "z": random(1, 2, 5, 8)[0]}
    assert_fused(text, inputs, {"SkipLayerNormalization": 1}, "cuda")


def test_a_mask_is_expanded_to_the_queries() -> None:
    inputs = attention_inputs(2, 3, 4, mask=(2, 1, 1, 7))
    assert_fused(attention("B, 1, 1, T"), inputs, {"Attention": 1})


def test_a_bias_may_differ_between_heads() -> None:
    inputs = attention_inputs(2, 3, 4, mask=(2, 4, 4, 7))
    assert_fused(attention("B, 4, S, T", empty="B, 4, S, 1"), inputs, {"Attention": 1})


def attention_of(shape: str, query: str, key: str) -> str:
    """Return attention with 2 heads of 8, whose states are reshaped from [batch, tokens, 16]."""
    return f"""
g (float[{query[0]}, S, 16] q, float[B, S, 16] k, float[B, S, 16] v) => (float[B, S, 16] y)
<int64[4] shape = {{{shape}, 2, 8}}, float root = {{2.0}}, float[{query}, 2, 8] q4, float[{key}, 2, 8] k4,
 float[{key}, 2, 8] v4, float[{query[0]}, 2, 4, 8] qt, float[{key[0]}, 2, 8, 4] kt, float[{key[0]}, 2, 4, 8] vt,
 float[{key[0]}, 2, 4, 8] z> {{
    q4 = Reshape(q, shape)
    k4 = Reshape(k, shape)
    v4 = Reshape(v, shape)
    qt = Transpose<perm = [0, 2, 1, 3]>(q4)
    kt = Transpose<perm = [0, 2, 3, 1]>(k4)
    vt = Transpose<perm = [0, 2, 1, 3]>(v4)
    products = MatMul(qt, kt)
    scores = Div(products, root)
    probabilities = Softmax<axis = -1>(scores)
    z = MatMul(probabilities, vt)
    zt = Transpose<perm = [0, 2, 1, 3]>(z)
    sizes = Shape(k)
    y = Reshape(zt, sizes)
}}"""


@pytest.mark.parametrize(("target", "operator"), [("cpu", "Attention"), ("cuda", "MultiHeadAttention")])
def test_windows_attend_to_themselves_alone(target: Optimize, operator: str) -> None:
    text = attention_of("-1, 4", "W, 4", "W, 4").replace("float[W, S, 16] q", "float[B, S, 16] q")
    inputs = {name: random(2, 12, 16) * (index + 1) for index, name in enumerate("qkv")}
    assert_fused(text, inputs, {operator: 1}, target)


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_queries_that_are_the_same_for_the_whole_batch_arent_fused(target: Optimize) -> None:
    text = attention_of("0, 0", "1, S", "B, S")
    inputs = {"q": random(1, 4, 16), "k": random(3, 4, 16), "v": 2 * random(3, 4, 16)}
    assert_fused(text, inputs, {}, target)


def test_a_mask_and_a_bias_of_positions_are_added() -> None:
    text = """
g (float[B, S, 2, 8] q, float[B, S, 2, 8] k, float[B, S, 2, 8] v, float[1, 2, S, S] bias, float[B, 1, 1, S] mask)
=> (float[B, 2, S, 8] y)
<float root = {2.0}, float[B, 2, S, 8] qt, float[B, 2, S, 8] vt> {
    qt = Transpose<perm = [0, 2, 1, 3]>(q)
    kt = Transpose<perm = [0, 2, 3, 1]>(k)
    vt = Transpose<perm = [0, 2, 1, 3]>(v)
    products = MatMul(qt, kt)
    scores = Div(products, root)
    biased = Add(scores, bias)
    masked = Add(biased, mask)
    probabilities = Softmax<axis = -1>(masked)
    y = MatMul(probabilities, vt)
}"""
    states = {name: random(2, 5, 2, 8) * (index + 1) for index, name in enumerate("qkv")}
    inputs = {
        **states,
        "bias": random(1, 2, 5, 5),
        "mask": np.where(random(2, 1, 1, 5) > 0, 0, -100).astype(np.float32),
    }
    assert_fused(text, inputs, {"Attention": 1})


def test_cross_attention_that_appends_nothing_keeps_its_cache() -> None:
    inputs = attention_inputs(2, 7, 4, mask=(2, 1, 4, 7), appended=0)
    model = assert_fused(attention(appended="N"), inputs, {"Attention": 1})
    assert sum(node.op_type == "Concat" for node in model.graph) == 2


RESIDUAL = """
g (float[B, S, 8] x, float[B, S, 8] z) => (float[B, S, 8] y)
<float[8] weight = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0}> {
    sum = Add(x, z)
    y = LayerNormalization<axis = -1>(sum, weight, weight)
}"""


def test_residual_connections_arent_fused_with_layer_normalization_when_the_graph_is_loaded(tmp_path: Path) -> None:
    inputs = {"x": random(2, 5, 8), "z": random(1, 2, 5, 8)[0]}
    model = assert_fused(RESIDUAL, inputs, {})
    outputs(model, inputs, tmp_path / "optimized.onnx")
    assert [node.op_type for node in ir.load(tmp_path / "optimized.onnx").graph] == ["Sum", "LayerNormalization"]


def test_onnxport_load_doesnt_fuse_them_in_other_graphs_either(tmp_path: Path) -> None:
    ir.save(model_of(RESIDUAL), tmp_path / "model.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    Graph(tmp_path / "model.onnx", RunSettings(session_options=options))
    assert [node.op_type for node in ir.load(tmp_path / "optimized.onnx").graph] == ["Add", "LayerNormalization"]


def test_without_a_target_the_graph_is_unchanged() -> None:
    model = model_of(RMS_NORM)
    fuse(model, "none")
    assert len(model.graph) == len(model_of(RMS_NORM).graph)
    assert model.opset_imports[""] == 20
