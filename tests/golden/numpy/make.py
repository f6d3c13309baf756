#!/usr/bin/env python3
"""Writes what numpy prints for arrays of every kind: the goldens of tests/numpy_text.rs.

    make.py > cases.jsonl                        the committed file, numpy 2.2.6
    make.py --random 20000 --seed 1 > more.jsonl   more, for VISORD_NUMPY_CASES=more.jsonl cargo test --test integration numpy_text

One case a line: dtype, shape, little-endian data as hex, the text; for some, the .npy file as hex too.
"""

import argparse
import io
import json
import sys

import numpy as np

np.set_printoptions(threshold=sys.maxsize)
FLOATS = (np.float32, np.float64, np.float16)
INTS = (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64)


def emit(array, npy=False):
    array = np.asarray(array)
    case = {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "data": np.ascontiguousarray(array).tobytes().hex(),
        "text": repr(array),
    }
    if npy:
        file = io.BytesIO()
        np.save(file, array)
        case["npy"] = file.getvalue().hex()
        assert np.load(io.BytesIO(file.getvalue())).tobytes() == array.tobytes()
    print(json.dumps(case, separators=(",", ":")))


def fixed():
    rng = np.random.default_rng(20)
    for dtype in FLOATS:
        info = np.finfo(dtype)
        for value in (0, -0.0, 1, -1, 0.5, 1.5, 0.1, 1 / 3, 100, 1e3, 12345, np.nan, np.inf, -np.inf):
            emit(dtype(value), npy=value == 1.5)
        lists = [
            [0, -0.0],
            [np.nan],
            [np.inf, np.nan],
            [-np.inf, np.nan],
            [np.nan, 1],
            [-np.inf, 1],
            [-np.inf, 0],
            [np.nan, -0.25, 1e-7, np.inf],
            [-np.inf, 1e-7, 1],
            [1, 1000],
            [1, 1000.5],
            [1, 1001],
            [1, 1002],
            [0.999, 1000],
            [1e-4],
            [np.nextafter(dtype(1e-4), dtype(0))],
            [np.nextafter(dtype(1e-4), dtype(1))],
            [9.9999e-5, 1e-4],
            [0.1, 0.2, 0.25],
            [1e-5, 0.1, 0.123456789, 1],
            [1e-5, 0.1],
            [-1e-5, 0.1],
            [0, 1e-5],
            [9.99999999, 1],
            [0.999999999, 0.5],
            [info.max],
            [info.max, info.tiny],
            [info.tiny],
            [info.smallest_subnormal],
            [-info.smallest_subnormal, 0],
            [info.eps, 1],
            [2.0**-10, 2.0**-9, 2.0**-3],
            # exact ties at the eighth decimal: odd multiples of 2^-9 * 10^-8 do not exist, these do
            [(2 * k + 1) * 5.0**9 * 2.0**-9 * 1e-4 for k in range(3)],
            [1 + 2.0**-9, 1 + 3 * 2.0**-9, 3 + 2.0**-9],
        ]
        if dtype is not np.float16:
            lists += [[99999992], [1e8], [99999990, 1], [33554430, 32768], [1e7, 12345.678], [2**24, 2**24 + 2]]
            lists += [[1e-30, 1e30], [1e-38, 1.5], [16777216, 16777217.5, 20000000.25]]
        if dtype is np.float64:
            lists += [[1e-100, 1], [1e-300, 1e300], [5e-324], [1.0000000000000002], [0.1 + 0.2], [2.0**60]]
            lists += [[1.2000000001e-5, 1.4499999999], [0.123456785, 0.123456775], [99999999.999999999, 1e6]]
        for values in lists:
            with np.errstate(over="ignore"):
                emit(np.array(values, dtype))
        for shape in ((0,), (0, 3), (2, 0), (3, 0, 2), (1,), (1, 1), (1, 1, 1), (2, 3), (2, 2, 2), (2, 1, 3, 2)):
            emit(rng.standard_normal(shape).astype(dtype), npy=len(shape) in (1, 2))
        for n in range(1, 25):
            emit(rng.standard_normal(n).astype(dtype))
            emit((rng.standard_normal((2, n)) * 1e-3).astype(dtype))
        # every length of the last line, for where the datatype goes
        for n in range(1, 40):
            emit(np.arange(n, dtype=dtype) % 7)
        emit(np.full((2, 12), 0.5, dtype), npy=True)
    for dtype in INTS:
        info = np.iinfo(dtype)
        emit(dtype(7), npy=True)
        emit(np.array([info.min, info.max, 0], dtype), npy=True)
        emit(np.zeros((0, 2), dtype))
        emit(np.zeros(0, dtype))
        for n in (3, 20, 22, 23, 24, 25, 26, 60):
            emit((np.arange(n) * 5 % 100).astype(dtype))
        emit(rng.integers(info.min, info.max, (3, 2, 9), dtype, endpoint=True), npy=True)
    emit(np.bool_(True), npy=True)
    emit(np.bool_(False))
    for n in (0, 1, 2, 9, 10, 11, 30):
        emit(np.arange(n) % 3 == 0, npy=n == 2)
    emit((np.arange(24) % 5 == 0).reshape(2, 3, 4))
    # embeddings: what the daemon answers, one and several
    for shape in ((1, 128), (1, 192), (1, 512), (3, 64)):
        e = rng.standard_normal(shape)
        emit((e / np.linalg.norm(e, axis=1, keepdims=True)).astype(np.float32), npy=shape == (1, 128))
        emit(e.astype(np.float32))
    e = (rng.random((1, 128)) + 0.01) * 0.2
    emit(e.astype(np.float32))


def shape_of(rng, n):
    kind = rng.integers(5)
    if kind == 0:
        return (n,)
    if kind == 1:
        return (1, n)
    a = int(rng.integers(1, 5))
    if kind == 2:
        return (a, max(1, n // a))
    b = int(rng.integers(1, 4))
    return (a, b, max(1, n // a // b)) if kind == 3 else (a, 1, b, max(1, n // a // b))


def values_of(rng, size, dtype):
    kind = rng.integers(12)
    bits = {np.float16: np.uint16, np.float32: np.uint32, np.float64: np.uint64}[dtype]
    if kind == 0:  # any bit pattern: nan, inf and subnormals among them
        return rng.integers(0, np.iinfo(bits).max, size, bits, endpoint=True).view(dtype)
    if kind == 1:  # subnormals
        return rng.integers(0, 1 << (np.finfo(dtype).nmant), size, bits).view(dtype)
    if kind == 2:  # one magnitude, positional
        return rng.uniform(1, 900, size) * 10.0 ** rng.integers(-4, 5)
    if kind == 3:  # many magnitudes
        return 10.0 ** rng.uniform(-12, 12, size) * rng.choice((-1, 1), size)
    if kind == 4:  # few decimals
        return np.round(rng.uniform(-50, 50, size), int(rng.integers(0, 10)))
    if kind == 5:  # exact ties at a cut: k / 2^n with n about the number of digits kept
        return rng.integers(1, 1 << 20, size) / 2.0 ** rng.integers(7, 12)
    if kind == 6:  # powers of two and their neighbours: unequal margins
        v = (2.0 ** rng.integers(-13, 10, size)).astype(dtype)
        return np.nextafter(v, np.where(rng.random(size) < 0.3, 0, np.where(rng.random(size) < 0.5, v, 1e9)).astype(dtype))
    if kind == 7:  # unit rows
        v = rng.standard_normal(size)
        return v / np.linalg.norm(v)
    if kind == 8:  # whole numbers about the exponent's threshold
        return rng.integers(1, 1 << int(rng.integers(1, 28)), size).astype(np.float64)
    if kind == 9:  # powers of two far out
        return 2.0 ** rng.integers(-149, 128, size)
    if kind == 10:  # a few not finite
        v = rng.standard_normal(size) * 10.0 ** rng.integers(-6, 6)
        v[rng.random(size) < 0.1] = rng.choice((np.nan, np.inf, -np.inf, 0.0, -0.0))
        return v
    return rng.uniform(1e-4, 0.1, size) * rng.choice((-1, 1), size)  # a narrow positional range


def randoms(count, seed):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        dtype = (np.float32, np.float32, np.float32, np.float64, np.float16)[rng.integers(5)]
        shape = shape_of(rng, int(rng.integers(1, 40)))
        with np.errstate(over="ignore", invalid="ignore"):
            emit(np.asarray(values_of(rng, int(np.prod(shape)), dtype)).astype(dtype).reshape(shape))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--random", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.random:
        randoms(args.random, args.seed)
    else:
        fixed()
