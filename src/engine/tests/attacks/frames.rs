//! Frames that come again, from elsewhere, or as no frames.

use std::cell::Cell;
use std::sync::Arc;

use super::shamir;
use crate::engine::frame::{Body, Frame, Kind, Told};
use crate::engine::tests::world::{Verdict, World};
use crate::engine::{EngineError, Event};
use crate::field::Fp61;
use crate::roster::Slot;
use crate::transcript::{CheckPoint, Commitment, Purpose};

/// Gives node 2 one changed copy of the first frame that node 1 sends it.
fn misplace(change: impl Fn(&mut Frame) + 'static) -> EngineError {
    let mut world = World::small(shamir(4, 1), 22);
    let done = Cell::new(false);
    world.adversary = Box::new(move |frame| {
        let h = frame.header;
        if h.from == Slot(1) && h.to == Slot(2) && h.kind == Kind::Opening && !done.replace(true) {
            change(frame);
        }
        Verdict::Deliver
    });
    world.run();
    world.error(2).clone()
}

#[test]
fn frames_from_elsewhere_are_refused() {
    type Change = fn(&mut Frame);
    let cases: [(&str, Change); 6] = [
        ("job", |f| f.header.manifest[0] ^= 1),
        ("epoch", |f| f.header.epoch = 1),
        ("view", |f| f.header.view = 1),
        ("attempt", |f| f.header.attempt = 1),
        ("sender", |f| f.header.from = Slot(3)),
        ("receiver", |f| f.header.to = Slot(4)),
    ];
    for (field, change) in cases {
        let error = misplace(change);
        assert!(matches!(&error, EngineError::Misplaced { field: found, .. } if *found == field), "{field}: {error}");
    }
    let error = misplace(|f| f.header.kind = Kind::Finish);
    assert!(matches!(error, EngineError::Misplaced { field: "kind", .. }), "{error}");
}

#[test]
fn a_frame_that_comes_again_changes_nothing() {
    let mut world = World::small(shamir(4, 1), 23);
    world.run();
    // Node 2 gets each frame of node 1 many times, early and late.
    let frames: Vec<_> = world.sent.iter().filter(|f| f.header.from == Slot(1) && f.header.to == Slot(2)).collect();
    let mut late = World::small(shamir(4, 1), 23);
    late.start();
    for frame in frames.iter().chain(&frames).map(|f| (*f).clone()) {
        late.queue.push_back((Slot(2), Event::Frame { from: Slot(1), frame }));
    }
    late.drain();
    assert_eq!(late.outputs(), world.outputs());
}

#[test]
fn a_frame_of_another_step_takes_no_place() {
    for by in [-1i32, 2, 7] {
        let mut world = World::small(shamir(4, 1), 22);
        let done = Cell::new(false);
        world.adversary = Box::new(move |frame| {
            let h = &mut frame.header;
            if (h.from, h.to, h.kind) == (Slot(1), Slot(2), Kind::Opening) && !done.replace(true) {
                h.step = h.step.wrapping_add_signed(by);
            }
            Verdict::Deliver
        });
        world.run();
        // Node 2 waits, and the others for it.
        assert!(world.outcomes.is_empty());
    }
}

#[test]
fn two_different_frames_for_one_exchange_end_the_job() {
    let mut world = World::small(shamir(4, 1), 22);
    world.run();
    let honest =
        |kind| world.sent.iter().find(|f| (f.header.from, f.header.to, f.header.kind) == (Slot(1), Slot(2), kind));
    let frame = honest(Kind::Opening).unwrap().clone();
    let mut other = frame.clone();
    let Body::Words(words) = &mut other.body else { panic!() };
    Arc::make_mut(words)[0] += Fp61::ONE;
    // For the next exchange, and for the one that node 2 is in.
    for kinds in [&[][..], &[Kind::Agree]] {
        let mut late = World::small(shamir(4, 1), 22);
        late.start();
        if !kinds.is_empty() {
            late.adversary = Box::new(|frame| match frame.header.kind {
                Kind::Opening => Verdict::Swallow,
                _ => Verdict::Deliver,
            });
            late.drain();
        } else {
            late.step(Slot(2), Event::Start);
        }
        for frame in [&frame, &frame, &other] {
            assert!(late.outcomes.is_empty());
            late.step(Slot(2), Event::Frame { from: Slot(1), frame: frame.clone() });
        }
        assert!(matches!(late.error(2), EngineError::Twice { from: Slot(1), kind: Kind::Opening, .. }));
    }
}

#[test]
fn our_own_frame_reflected_is_refused() {
    let mut world = World::small(shamir(4, 1), 24);
    world.run();
    let own = world.sent.iter().find(|f| f.header.from == Slot(2) && f.header.to == Slot(1)).unwrap().clone();
    let mut other = World::small(shamir(4, 1), 24);
    other.step(Slot(2), Event::Start);
    other.step(Slot(2), Event::Frame { from: Slot(1), frame: own.clone() });
    assert!(matches!(other.error(2), EngineError::Misplaced { field: "sender", .. }));
    let mut other = World::small(shamir(4, 1), 24);
    other.step(Slot(2), Event::Start);
    other.step(Slot(2), Event::Frame { from: Slot(2), frame: own });
    assert!(matches!(other.error(2), EngineError::Unasked(_)));
}

#[test]
fn an_opening_of_the_wrong_length_names_its_sender() {
    for grow in [false, true] {
        let error = misplace(move |frame| {
            let Body::Words(words) = &mut frame.body else { panic!() };
            let words = Arc::make_mut(words);
            if grow {
                words.push(Fp61::ZERO)
            } else {
                let _ = words.pop();
            }
        });
        assert!(matches!(error, EngineError::Words { from: Slot(1), .. }), "{error}");
    }
}

#[test]
fn words_that_are_not_canonical_never_become_frames() {
    let mut world = World::small(shamir(4, 1), 25);
    world.run();
    let frame = world.sent.iter().find(|f| f.header.kind == Kind::Opening).unwrap();
    for word in [crate::field::P, crate::field::P + 1, u64::MAX] {
        let mut bytes = frame.encode();
        let at = bytes.len() - 8;
        bytes[at..].copy_from_slice(&word.to_le_bytes());
        assert!(Frame::decode(&bytes).is_err(), "{word:#x}");
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_frame_decoder_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        if let Ok(frame) = Frame::decode(&bytes) {
            proptest::prop_assert_eq!(frame.encode(), bytes);
        }
    }
}

#[test]
fn the_wire_form_of_frames_is_frozen() {
    let header = crate::engine::frame::Header {
        manifest: [0xab; 32],
        epoch: 1,
        view: 2,
        attempt: 3,
        step: 4,
        kind: Kind::Opening,
        from: Slot(5),
        to: Slot(6),
    };
    let words = Body::Words(Arc::new(vec![Fp61::ONE, -Fp61::ONE]));
    let hex = crate::keys::hex(&Frame { header, body: words }.encode());
    let head = format!("{}01000000020000000300000004000000", "ab".repeat(32));
    assert_eq!(hex, format!("{head}0205060100000000000000feffffffffffff1f"));

    let point = CheckPoint { manifest: [1; 32], epoch: 0, view: 0, check: 0, transcript: [2; 32] };
    let (_, opening) = Commitment::commit(&point, Purpose::Sigma, Slot(5), [9; 32], &7u64.to_le_bytes());
    for (kind, number, body, bytes) in [
        (Kind::Agree, "01", Body::Digest([3; 32]), "03".repeat(32)),
        (Kind::SigmaOpen, "08", Body::Opening(opening), format!("{}080700000000000000", "09".repeat(32))),
        (Kind::Segment, "0b", Body::Digest([3; 32]), "03".repeat(32)),
        (Kind::Gather, "0d", Body::Words(Arc::new(vec![Fp61::ONE])), "0100000000000000".to_owned()),
        (Kind::Spread, "0e", Body::Words(Arc::default()), String::new()),
        (Kind::Agreed, "0f", Body::Digest([3; 32]), "03".repeat(32)),
        (Kind::Combined, "10", Body::Words(Arc::new(vec![Fp61::ONE])), "0100000000000000".to_owned()),
        (
            Kind::Packed,
            "0c",
            Body::Packed(Arc::new(vec![Fp61::ONE]), Told::Words(Arc::new(vec![u64::MAX]))),
            "0101000000ffffffffffffffff0100000000000000".to_owned(),
        ),
        (
            Kind::Packed,
            "0c",
            Body::Packed(Arc::new(vec![Fp61::ONE]), Told::Voucher([3; 32])),
            format!("00{}0100000000000000", "03".repeat(32)),
        ),
    ] {
        let hex = crate::keys::hex(&Frame { header: crate::engine::frame::Header { kind, ..header }, body }.encode());
        assert_eq!(hex, format!("{head}{number}0506{bytes}"));
    }
}
