// The integers behind a masked opening c: c - T for a threshold T, as a signed
// 64-bit word, shifted down arithmetically. All of it is public.

fn below(c: Fp, threshold: vec2<u32>) -> vec2<u32> {
    return vec2(c.x - threshold.x, c.y - threshold.y - u32(c.x < threshold.x));
}

// by is at most 61 and the same for the whole dispatch.
fn shift_down(x: vec2<u32>, by: u32) -> vec2<u32> {
    let high = bitcast<i32>(x.y);
    if by == 0u {
        return x;
    }
    if by < 32u {
        return vec2((x.x >> by) | (x.y << (32u - by)), bitcast<u32>(high >> by));
    }
    return vec2(bitcast<u32>(high >> (by - 32u)), bitcast<u32>(high >> 31u));
}

// A signed word modulo p: read as unsigned, a negative one is 2^64 = 8 more.
fn from_signed(x: vec2<u32>) -> Fp {
    return sub(reduce(x), vec2((x.y >> 31u) * 8u, 0u));
}

// Bit 60.
fn top(c: Fp) -> bool {
    return (c.y & 0x10000000u) != 0u;
}
