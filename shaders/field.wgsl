// Fp61, p = 2^61 - 1: elements are vec2<u32>, the little-endian u64 as it is,
// canonical: in [0, p). No branch depends on a word.
//
// Products go through limbs of 13 bits, since WGSL has no 32 x 32 -> 64 bit
// multiplication: 2^65 = 16 mod p folds the upper columns onto the lower ones.

alias Fp = vec2<u32>;

const HIGH: u32 = 0x1fffffffu;
const P = vec2<u32>(0xffffffffu, HIGH);
const LIMB: u32 = 0x1fffu;

// s < 2p to canonical: s >= p exactly if s + 1 has bit 61, and then s - p is
// s + 1 without it.
fn fold(s: Fp) -> Fp {
    let low = s.x + 1u;
    let high = s.y + u32(low == 0u);
    return select(s, vec2(low, high & HIGH), (high & 0x20000000u) != 0u);
}

// The sum as an integer below 2^64.
fn wide_add(a: Fp, b: Fp) -> Fp {
    let low = a.x + b.x;
    return vec2(low, a.y + b.y + u32(low < a.x));
}

// Any 64-bit word to canonical: 2^61 = 1. The sum is at most p + 7.
fn reduce(s: Fp) -> Fp {
    return fold(wide_add(vec2(s.x, s.y & HIGH), vec2(s.y >> 29u, 0u)));
}

// At most 2(p - 1).
fn add(a: Fp, b: Fp) -> Fp {
    return fold(wide_add(a, b));
}

// p - b is b with all 61 bits flipped; at most (p - 1) + p.
fn sub(a: Fp, b: Fp) -> Fp {
    return fold(wide_add(a, b ^ P));
}

fn neg(a: Fp) -> Fp {
    return fold(a ^ P);
}

// Columns c_k at 2^(13k) to a word below 2^61 + 2^22: the carry out of bit 61
// comes in at bit 0. Each column plus a carry of 19 bits must fit 32 bits.
fn carry(c0: u32, c1: u32, c2: u32, c3: u32, c4: u32) -> Fp {
    let t1 = c1 + (c0 >> 13u);
    let t2 = c2 + (t1 >> 13u);
    let t3 = c3 + (t2 >> 13u);
    let t4 = c4 + (t3 >> 13u);
    let middle = t2 & LIMB;
    let low = (c0 & LIMB) | ((t1 & LIMB) << 13u) | (middle << 26u);
    let high = (middle >> 6u) | ((t3 & LIMB) << 7u) | ((t4 & 0x1ffu) << 20u);
    return wide_add(vec2(low, high), vec2(t4 >> 9u, 0u));
}

// a * b mod p as a word below 2^61 + 2^22: two of them and a canonical word
// can be added before one reduction.
//
// Limbs are below 2^13, the fifth below 2^9. The greatest column, the first,
// is at most 2^26 + 16 * (2 * 2^26 + 2 * 2^22) < 0.55 * 2^32.
fn wide_mul(a: Fp, b: Fp) -> Fp {
    let a0 = a.x & LIMB;
    let a1 = (a.x >> 13u) & LIMB;
    let a2 = (a.x >> 26u) | ((a.y & 0x7fu) << 6u);
    let a3 = (a.y >> 7u) & LIMB;
    let a4 = a.y >> 20u;
    let b0 = b.x & LIMB;
    let b1 = (b.x >> 13u) & LIMB;
    let b2 = (b.x >> 26u) | ((b.y & 0x7fu) << 6u);
    let b3 = (b.y >> 7u) & LIMB;
    let b4 = b.y >> 20u;
    return carry(
        a0 * b0 + ((a1 * b4 + a2 * b3 + a3 * b2 + a4 * b1) << 4u),
        a0 * b1 + a1 * b0 + ((a2 * b4 + a3 * b3 + a4 * b2) << 4u),
        a0 * b2 + a1 * b1 + a2 * b0 + ((a3 * b4 + a4 * b3) << 4u),
        a0 * b3 + a1 * b2 + a2 * b1 + a3 * b0 + ((a4 * b4) << 4u),
        a0 * b4 + a1 * b3 + a2 * b2 + a3 * b1 + a4 * b0,
    );
}

// wide_mul < 2p, so one fold is enough.
fn mul(a: Fp, b: Fp) -> Fp {
    return fold(wide_mul(a, b));
}

// k * x for a coefficient that is the same for the whole dispatch. Telling +-1
// apart is a branch on k: it is public, or a MAC key, which the branch shows
// only not to be one of two values out of p.
fn scaled(k: Fp, x: Fp) -> Fp {
    if k.x == 1u && k.y == 0u {
        return x;
    }
    if k.x == 0xfffffffeu && k.y == HIGH {
        return neg(x);
    }
    return mul(k, x);
}
