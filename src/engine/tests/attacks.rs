//! Malicious behaviour, mounted on the wires of whole parties. Each test
//! asserts that the tampered message was really used, what every honest party
//! says, and that nothing was released.

mod equivocation;
mod frames;
mod shamir;
mod spdz;
mod stream;

use std::sync::Arc;

use crate::engine::frame::{Body, Frame, Told};
use crate::field::Fp61;
use crate::roster::Roster;

fn spdz() -> Roster {
    Roster::spdz(3).unwrap()
}

fn shamir(n: u8, t: u8) -> Roster {
    Roster::shamir(n, t).unwrap()
}

/// Adds 1 to a word of an opening.
fn bump(frame: &mut Frame, word: usize) {
    let Body::Words(words) = &mut frame.body else { panic!("not an opening") };
    let words = Arc::make_mut(words);
    words[word] += Fp61::ONE;
}

/// Another body of the same form: a flipped bit, or a 1 added to a word.
fn falsify(frame: &mut Frame) {
    match &mut frame.body {
        Body::Digest(digest) => digest[0] ^= 1,
        Body::Opening(opening) => {
            let mut bytes = postcard::to_stdvec(opening).unwrap();
            bytes[5] ^= 1;
            *opening = postcard::from_bytes(&bytes).unwrap();
        }
        Body::Words(_) => bump(frame, 0),
        Body::Packed(_, Told::Words(words)) => Arc::make_mut(words)[0] ^= 1,
        Body::Packed(_, Told::Voucher(hash)) => hash[0] ^= 1,
    }
}
