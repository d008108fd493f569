import numpy as np

from wire import ABSENT, Frame, FrameBatch, Health, decode_batch, encode_batch, is_absent


def test_absent_is_a_nan_that_no_arithmetic_makes():
    with np.errstate(all="ignore"):
        nans = np.array([np.nan, -np.nan, np.inf - np.inf, np.float32(0) / 0], np.float32)

    assert np.isnan(ABSENT)
    assert not is_absent(nans).any()


def test_absent_arrives_through_the_wire_and_through_float64():
    values = np.array([1.0, float(ABSENT), np.nan], np.float32)
    frame = Frame.pack(seq=1, step=0, time=0.0, layout="0" * 32, values=values)

    body = encode_batch(FrameBatch(rank=0, oldest=1, frames=[frame], health=Health()))

    unpacked = decode_batch(body).frames[0].unpack()
    assert is_absent(unpacked).tolist() == [False, True, False]
    assert is_absent(unpacked.astype(np.float64).astype(np.float32)).tolist() == [
        False,
        True,
        False,
    ]
