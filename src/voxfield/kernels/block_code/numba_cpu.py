"""The block coder: binary arithmetic coding with probabilities mixed from several contexts, in whole numbers alone.

Every bit is coded with a probability mixed from `_MODELS` adaptive ones, each looked up by another context (Mahoney,
Adaptive Weighing of Context Models for Lossless Data Compression, 2005). Nothing here is floating-point, so that every
machine decodes what any machine encoded. The functions are plain Python that Numba compiles: interpreted, they are the
reference. Encoder and decoder are one walk, so that they cannot drift apart.

Blocks are coded one after another, voxels in the order of their offset. Each is seen in a frame of 12³ that holds the
earlier blocks around it (two voxels deep); what is not known yet, or not there, holds what the walk says.
"""

import math

import numpy as np
from numba.extending import register_jitable

from voxfield.kernels.block_code.api import EARLIER, FEW_TAPS, HINTS, LARGEST, TAPS
from voxfield.kernels.jit import njit

_MODELS = 4
_WIDE_MODELS = 7  # for values with more taps than `FEW_TAPS`
_LIMIT = 250  # observations after which a probability adapts no slower
_ROOM = 1 << 16  # bytes that a block's code never exceeds: 512 voxels of at most 80 bits, each of at most 12 bits
_UNARY = 14  # magnitudes up to this are coded bit by bit
_ESCAPE = 30  # most bits of what goes beyond
_BINS = 2 + _UNARY + 2 * _ESCAPE
_MOST_CONTEXTS = 128  # of a value's bit, in one model
_X, _Y = 144, 12  # from one voxel of a frame to the next along x and along y
_FRAME = 12 * _X
_AROUND = np.array(EARLIER, dtype=np.int64)
_TAP_STEPS = np.array(TAPS, dtype=np.int64) @ np.array([_X, _Y, 1])


def _squash_table() -> np.ndarray:
    """4096 / (1 + exp(-x / 256)) for x from -2048 to 2047, by the whole numbers of a table of 33: no rounding of
    exponentials, which differs between machines.
    """
    knots = [1, 2, 3, 6, 10, 16, 27, 45, 73, 120, 194, 310, 488, 747, 1101, 1546, 2047, 2549, 2994, 3348, 3607, 3785]
    knots += [3901, 3975, 4022, 4050, 4068, 4079, 4085, 4089, 4092, 4093, 4094]
    table = np.empty(4096, dtype=np.int64)
    for place in range(4096):
        step, rest = place >> 7, place & 127
        table[place] = (knots[step] * (128 - rest) + knots[step + 1] * rest + 64) >> 7
    return table


def _stretch_table(squash: np.ndarray) -> np.ndarray:
    """The inverse of ``squash``: for each probability of 12 bits the least x that reaches it."""
    return np.minimum(np.searchsorted(squash, np.arange(4096)), 4095).astype(np.int64) - 2048


_SQUASH = _squash_table().astype(np.int16)
_STRETCH = _stretch_table(_SQUASH).astype(np.int16)
_RATES = np.array([2 * 65536 // (2 * count + 3) for count in range(_LIMIT + 1)], dtype=np.int32)
_FRESH = 32768 << 8
"""A probability of a half that nothing has been seen of: probabilities have 16 bits, over 8 of observations."""

# A coder is one array: low and high end of the range, the decoder's code, the place in the bytes, then the places of a
# bit's probabilities, and what these put into the mix. Both directions share every function. The compiled functions
# pass few arrays: each is seven arguments. Tables are constants to them, in few bytes, as they share the first cache.
_PLACES = 4
_MIXED = _PLACES + _WIDE_MODELS


@register_jitable
def _code_bit(coder, raw, encoding, bit, chance):
    """Code one bit whose probability of being 1 is ``chance`` of 4096 (1 to 4095)."""
    low, high = coder[0], coder[1]
    middle = low + ((high - low) * chance >> 12)
    if not encoding:
        bit = 1 if coder[2] <= middle else 0
    if bit:
        high = middle
    else:
        low = middle + 1
    while (low ^ high) & 0xFF000000 == 0:
        at = coder[3]
        if encoding:
            raw[at] = high >> 24
        else:
            following = raw[at] if at < len(raw) else 0
            coder[2] = ((coder[2] << 8) & 0xFFFFFFFF) | following
        coder[3] = at + 1
        low = (low << 8) & 0xFFFFFFFF
        high = ((high << 8) & 0xFFFFFFFF) | 255
    coder[0], coder[1] = low, high
    return bit


@register_jitable
def _mix(coder, raw, encoding, bit, slots, weights, row):
    """Code one bit with the probabilities that ``coder`` names of ``slots``, one of each model, weighed by row ``row``
    of ``weights``, and let all of them learn.
    """
    models = len(slots)
    total = 256 * weights[row, models]
    for model in range(models):
        stretched = np.int64(_STRETCH[slots[model, coder[_PLACES + model]] >> 12])
        coder[_MIXED + model] = stretched
        total += stretched * weights[row, model]
    total = min(max(total >> 16, -2047), 2047)
    chance = min(max(np.int64(_SQUASH[total + 2048]), 1), 4095)
    bit = _code_bit(coder, raw, encoding, bit, chance)
    error = ((bit << 12) - chance) * 6
    weights[row, models] += (256 * error + 0x2000) >> 14
    goal = 65535 if bit else 0
    for model in range(models):
        weights[row, model] += (coder[_MIXED + model] * error + 0x2000) >> 14
        place = coder[_PLACES + model]
        slot = np.int64(slots[model, place])
        chance, count = slot >> 8, slot & 255
        chance += ((goal - chance) * np.int64(_RATES[count])) >> 16
        slots[model, place] = chance << 8 | (count + 1 if count < _LIMIT else count)
    return bit


@register_jitable
def _models(contexts, models=_MODELS):
    """Fresh probabilities of every model in ``contexts`` contexts."""
    return np.full((models, contexts), _FRESH, dtype=np.int32)


@register_jitable
def _weights(rows, models=_MODELS):
    """Equal weights of the models, and none of the constant behind them."""
    weights = np.full((rows, models + 1), 88000 // models, dtype=np.int64)
    weights[:, models] = 0
    return weights


@register_jitable
def _start(raw, encoding):
    """A coder at the beginning of ``raw``."""
    coder = np.zeros(_MIXED + _WIDE_MODELS, dtype=np.int64)
    coder[1] = 0xFFFFFFFF
    if not encoding:
        for at in range(4):
            coder[2] = (coder[2] << 8) | (raw[at] if at < len(raw) else 0)
        coder[3] = 4
    return coder


@register_jitable
def _roomy(raw, at):
    """``raw``, twice as long where a block might not fit behind ``at``."""
    if at + _ROOM <= len(raw):
        return raw
    longer = np.zeros(2 * len(raw) + _ROOM, dtype=np.uint8)
    longer[:at] = raw[:at]
    return longer


@register_jitable
def _finish(coder, raw):
    """Write what tells the last range from all others; the number of bytes."""
    # The ends differ in their first byte, so that of the high end followed by zeros, which a decoder reads behind the
    # last byte, lies between them.
    raw[coder[3]] = coder[1] >> 24
    return coder[3] + 1


@register_jitable
def _fill_frame(frame, blocks, neighbours, row, missing):
    """Copy into a frame what earlier blocks know around block ``row``; ``missing`` where there is none."""
    frame[:] = missing
    for number in range(len(_AROUND)):
        other = neighbours[row, number]
        if other < 0:
            continue
        step_x, step_y, step_z = _AROUND[number, 0], _AROUND[number, 1], _AROUND[number, 2]
        for x in range(10 if step_x > 0 else 2 * (step_x + 1), 10 + 2 * step_x if step_x >= 0 else 2):
            at_x = (x + 6) & 7
            for y in range(10 if step_y > 0 else 2 * (step_y + 1), 10 + 2 * step_y if step_y >= 0 else 2):
                at_y = (y + 6) & 7
                for z in range(10 if step_z > 0 else 2 * (step_z + 1), 10 + 2 * step_z if step_z >= 0 else 2):
                    frame[x * _X + y * _Y + z] = blocks[other, (at_x * 8 + at_y) * 8 + ((z + 6) & 7)]


@register_jitable
def _at(place):
    """Where in a frame the voxel of an offset in its block is."""
    return (2 + (place >> 6)) * _X + (2 + ((place >> 3) & 7)) * _Y + 2 + (place & 7)


def _walk_states(raw, encoding, states, hints, neighbours):
    """Code the states of all blocks; the bytes, and how many were read or written."""
    coder = _start(raw, encoding)
    slots = _models(8192 * HINTS)
    weights = _weights(2 * HINTS)
    kind_slots = _models(2048)
    kind_weights = _weights(2)
    full_slots = _models(16)
    full_weights = _weights(1)
    full = np.zeros(len(states) + 1, dtype=np.uint8)  # the last is that of a block that is not there
    frame = np.zeros(_FRAME, dtype=np.uint8)
    hint = np.zeros(_FRAME, dtype=np.uint8)
    for row in range(len(states)):
        if encoding:
            raw = _roomy(raw, coder[3])
        # Most blocks inside a fog are full: one bit says so in place of 512.
        expected = 1
        whole = 1
        for place in range(512):
            if hints[row, place] != HINTS - 1:
                expected = 0
            if states[row, place] != 1:
                whole = 0
        beside = np.int64(full[neighbours[row, 12]]) | np.int64(full[neighbours[row, 10]]) << 1
        beside |= np.int64(full[neighbours[row, 4]]) << 2
        coder[_PLACES] = beside * 2 + expected
        coder[_PLACES + 1] = beside
        coder[_PLACES + 2] = expected
        coder[_PLACES + 3] = 0
        if _mix(coder, raw, encoding, whole, full_slots, full_weights, 0):
            full[row] = 1
            states[row, :] = 1
            continue
        _fill_frame(frame, states, neighbours, row, 0)
        for place in range(512):
            hint[_at(place)] = hints[row, place]
        for place in range(512):
            at = _at(place)
            state = np.int64(states[row, place])
            a, b, c = np.int64(frame[at - _X]), np.int64(frame[at - _Y]), np.int64(frame[at - 1])
            ab, ac, bc = (
                np.int64(frame[at - _X - _Y]),
                np.int64(frame[at - _X - 1]),
                np.int64(frame[at - _Y - 1]),
            )
            on = (a & 1) | (b & 1) << 1 | (c & 1) << 2
            near = on | (ab & 1) << 3 | (ac & 1) << 4 | (bc & 1) << 5
            far = np.int64(frame[at - 2 * _X] & 1) | np.int64(frame[at - 2 * _Y] & 1) << 1
            far |= np.int64(frame[at - 2] & 1) << 2
            beyond = np.int64(frame[at - _X + _Y] & 1) | np.int64(frame[at - _X + 1] & 1) << 1
            beyond |= np.int64(frame[at - _Y + 1] & 1) << 2 | np.int64(frame[at - _X - _Y - 1] & 1) << 3
            told = np.int64(hint[at])
            before = min(np.int64(hint[at - _X]) + np.int64(hint[at - _Y]) + np.int64(hint[at - 1]), 7)
            after = min(np.int64(hint[at + _X]) + np.int64(hint[at + _Y]) + np.int64(hint[at + 1]), 7)
            coder[_PLACES] = near * HINTS + told
            coder[_PLACES + 1] = (near | far << 6 | beyond << 9) * HINTS + told
            coder[_PLACES + 2] = (on | before << 3 | after << 6) * HINTS + told
            coder[_PLACES + 3] = (far | (place >> 6 & 1) << 3 | (place >> 3 & 1) << 4) * HINTS + told
            mixed = told * 2 + (1 if on in {0, 7} else 0)
            active = _mix(coder, raw, encoding, state & 1, slots, weights, mixed)
            kind = 0
            if not active:
                kinds = (a >> 1) | (b >> 1) << 2 | (c >> 1) << 4
                all_kinds = kinds | (ab >> 1 & 1) << 6 | (ac >> 1 & 1) << 7 | (bc >> 1 & 1) << 8
                coder[_PLACES] = kinds * 2
                coder[_PLACES + 1] = (all_kinds * 2) & 2047
                coder[_PLACES + 2] = (c >> 1) * 2
                coder[_PLACES + 3] = 0
                if _mix(coder, raw, encoding, 1 if state >> 1 else 0, kind_slots, kind_weights, 0):
                    for model in range(_MODELS):
                        coder[_PLACES + model] += 1
                    kind = 1 + _mix(coder, raw, encoding, 1 if state >> 1 == 2 else 0, kind_slots, kind_weights, 1)
            coded = active | kind << 1
            frame[at] = coded
            states[row, place] = coded
    if encoding:
        return raw, _finish(coder, raw)
    return raw, coder[3]


@register_jitable
def _level(amount):
    """A magnitude in one of 16 steps that grow with it."""
    if amount < 8:
        return amount
    if amount < 12:
        return 8
    if amount < 18:
        return 9
    if amount < 28:
        return 10
    if amount < 44:
        return 11
    if amount < 72:
        return 12
    if amount < 140:
        return 13
    return 14 if amount < 400 else 15


@register_jitable
def _clip(value, limit):
    return min(max(value, -limit), limit)


def _walk_values(raw, encoding, values, active, neighbours, taps, missing):
    """Code the values of active voxels; ``values`` holds what inactive ones are. The bytes, and how many."""
    coder = _start(raw, encoding)
    wide = len(taps) > FEW_TAPS
    models = _WIDE_MODELS if wide else _MODELS
    slots = _models(_BINS * _MOST_CONTEXTS, models)
    weights = _weights(_BINS * 4, models)
    frame = np.zeros(_FRAME, dtype=np.int32)
    errors = np.zeros(values.shape, dtype=np.int16)
    miss = np.zeros(_FRAME, dtype=np.int16)
    contexts = np.zeros(_WIDE_MODELS + 1, dtype=np.int64)
    for row in range(len(values)):
        if encoding:
            raw = _roomy(raw, coder[3])
        _fill_frame(frame, values, neighbours, row, missing)
        _fill_frame(miss, errors, neighbours, row, 0)
        for place in range(512):
            at = _at(place)
            value = np.int64(values[row, place])
            if not active[row, place]:
                frame[at] = value
                miss[at] = 0
                if wide:
                    _extend(frame, place, at)
                continue
            total = 2048
            for number in range(len(taps)):
                total += np.int64(taps[number]) * np.int64(frame[at + _TAP_STEPS[number]])
            expected = _clip(total >> 12, LARGEST)
            _see(contexts, frame, miss, at, expected, (total & 4095) >> 10, wide)
            error = _code_error(coder, raw, encoding, value - expected, slots, weights, contexts)
            value = _clip(expected + error, LARGEST)
            values[row, place] = value
            frame[at] = value
            miss[at] = _clip(error, 1000)
            errors[row, place] = _clip(error, 1000)
            if wide:
                _extend(frame, place, at)
    if encoding:
        return raw, _finish(coder, raw)
    return raw, coder[3]


@register_jitable
def _extend(frame, place, at):
    """Let what a later block will hold be what is at this one's end, for the taps that reach there."""
    y, z = place >> 3 & 7, place & 7
    if z == 7:
        frame[at + 1] = frame[at + 2] = frame[at]
    if y == 7:
        frame[at + _Y] = frame[at + 2 * _Y] = frame[at]
        if z == 0:
            frame[at + _Y - 1] = frame[at]
        if z == 7:
            frame[at + _Y + 1] = frame[at]


@register_jitable
def _see(contexts, frame, miss, at, expected, part, wide):
    """The contexts of a value's bits, one a model, and last which weights mix them."""
    a, b, c = np.int64(frame[at - _X]), np.int64(frame[at - _Y]), np.int64(frame[at - 1])
    plane = a + b + c - np.int64(frame[at - _X - _Y]) - np.int64(frame[at - _X - 1])
    plane += np.int64(frame[at - _X - _Y - 1]) - np.int64(frame[at - _Y - 1])
    # How far the neighbours were missed, and how far they are from each other.
    missed = abs(np.int64(miss[at - _X])) + abs(np.int64(miss[at - _Y])) + abs(np.int64(miss[at - 1]))
    missed += abs(np.int64(miss[at - _X - _Y])) + abs(np.int64(miss[at - _X - 1]))
    missed += abs(np.int64(miss[at - _Y - 1]))
    spread = max(a, b, c) - min(a, b, c)
    around = (_clip(plane - expected, 3) + 3) * 7 + _clip((a + b + c) // 3 - expected, 3) + 3
    contexts[1] = part * 8 + (_level(spread) >> 1)
    contexts[3] = around
    if not wide:
        contexts[0] = _level(missed)
        contexts[2] = (_level(missed) >> 1) * 4 + part
        contexts[_WIDE_MODELS] = 0
        return
    missed += abs(np.int64(miss[at - _X + _Y])) + abs(np.int64(miss[at - _X + 1])) + abs(np.int64(miss[at - _Y + 1]))
    contexts[0] = _level(missed) * 8 + (_level(spread) >> 1)
    contexts[2] = _level(missed) * 4 + part
    # Straight on along each axis: where the field has a kink one of them is nearer than any sum.
    along_x = _clip(2 * a - np.int64(frame[at - 2 * _X]) - expected, 3) + 3
    along_y = _clip(2 * b - np.int64(frame[at - 2 * _Y]) - expected, 3) + 3
    along_z = _clip(2 * c - np.int64(frame[at - 2]) - expected, 3) + 3
    leaning = np.int64(miss[at - _X]) + np.int64(miss[at - _Y]) + np.int64(miss[at - 1])
    contexts[4] = along_x * 7 + along_y
    contexts[5] = along_z * 7 + _clip(leaning, 3) + 3
    contexts[6] = min(max(expected, 0), _MOST_CONTEXTS - 1)  # many fields end at one value, or gather at some
    contexts[_WIDE_MODELS] = _level(missed) >> 2


@register_jitable
def _code_error(coder, raw, encoding, error, slots, weights, contexts):
    """Code a whole number: whether it is 0, its sign, its magnitude by ones, and beyond `_UNARY` by Elias' gamma."""
    magnitude = abs(error)
    if not _bin(0, magnitude > 0, coder, raw, encoding, slots, weights, contexts):
        return 0
    negative = _bin(1, error < 0, coder, raw, encoding, slots, weights, contexts)
    found = 1
    while found <= _UNARY and _bin(1 + found, magnitude > found, coder, raw, encoding, slots, weights, contexts):
        found += 1
    if found > _UNARY:
        rest = magnitude - found + 1
        bits = 0
        while bits < _ESCAPE - 1 and _bin(
            2 + _UNARY + bits, rest >> (bits + 1) > 0, coder, raw, encoding, slots, weights, contexts
        ):
            bits += 1
        read = 1
        for bit in range(bits - 1, -1, -1):
            read = read << 1 | _bin(
                2 + _UNARY + _ESCAPE + bit, rest >> bit & 1, coder, raw, encoding, slots, weights, contexts
            )
        found += read - 1
    return -found if negative else found


@register_jitable
def _bin(number, bit, coder, raw, encoding, slots, weights, contexts):
    """Code one bit of a whole number."""
    for model in range(len(slots)):
        coder[_PLACES + model] = number * _MOST_CONTEXTS + contexts[model]
    row = number * 4 + contexts[_WIDE_MODELS]
    return _mix(coder, raw, encoding, np.int64(bit), slots, weights, row)


def _add_normal(values, active, neighbours, taps, missing, matrix, goal):
    """Add the normal equations of the linear prediction, each voxel weighed by how well ``taps`` already meet it: of
    the matrix, which is symmetric, its lower half.
    """
    frame = np.zeros(_FRAME, dtype=np.int32)
    seen = np.zeros(len(taps), dtype=np.float64)
    for row in range(len(values)):
        _fill_frame(frame, values, neighbours, row, missing)
        for place in range(512):
            at = _at(place)
            frame[at] = values[row, place]
            if len(taps) > FEW_TAPS:
                _extend(frame, place, at)
        for place in range(512):
            if not active[row, place]:
                continue
            at = _at(place)
            error = float(values[row, place])
            for number in range(len(taps)):
                seen[number] = frame[at + _TAP_STEPS[number]]
                error -= taps[number] / 4096.0 * seen[number]
            # Bits grow with the logarithm of an error, not with its square.
            weight = 1.0 / (abs(error) + 1.0)
            for one in range(len(taps)):
                goal[one] += weight * seen[one] * values[row, place]
                for two in range(one + 1):
                    matrix[one, two] += weight * seen[one] * seen[two]


_compile = njit(nogil=True, boundscheck=False, error_model="numpy")
_compiled_states = _compile(_walk_states)
_compiled_values = _compile(_walk_values)
_compiled_normal = _compile(_add_normal)


def states(raw, encoding, blocks, hints, neighbours, *, interpreted=False):
    """Code states in place; the bytes and how many."""
    walk = _walk_states if interpreted else _compiled_states
    return walk(raw, encoding, blocks, hints, neighbours)


def values(raw, encoding, blocks, active, neighbours, taps, missing, *, interpreted=False):
    """Code values in place; the bytes and how many."""
    walk = _walk_values if interpreted else _compiled_values
    return walk(raw, encoding, blocks, active, neighbours, taps, missing)


def fit_taps(blocks, active, neighbours, missing, count):
    """Weights (count,) int16, in 4096ths, of the linear prediction that misses ``blocks`` least."""
    taps = np.zeros(count, dtype=np.int16)
    for _ in range(3):
        matrix, goal = np.zeros((count, count)), np.zeros(count)
        _compiled_normal(blocks, active, neighbours, taps, missing, matrix, goal)
        matrix += np.tril(matrix, -1).T
        scale = np.trace(matrix) / count
        if not math.isfinite(scale) or scale <= 0:
            break
        found = np.linalg.solve(matrix + 1e-4 * scale * np.eye(count), goal)
        taps = np.clip(np.rint(found * 4096), -32767, 32767).astype(np.int16)
    return taps
