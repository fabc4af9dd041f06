use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::field::slice::encode_words;
use crate::program::graph::Type;
use crate::program::plan::{InputPlan, OutputPlan, Sec};
use crate::tensor::Shape;
use crate::transcript::root;

const NOW: u64 = 1_800_000_000;
const TYPE: Type = Type { frac: 0, fixed: false, lo: 0, hi: 1 };

pub(in crate::job) fn node(slot: u8) -> SecretKey {
    SecretKey::insecure_from_seed(u64::from(slot), "node")
}
pub(in crate::job) fn owner() -> SecretKey {
    SecretKey::insecure_from_seed(0, "owner")
}
fn reader() -> SecretKey {
    SecretKey::insecure_from_seed(0, "reader")
}
fn delta() -> Vec<Fp61> {
    (0..6).map(Fp61::reduce).collect()
}
fn plan() -> Plan {
    let output = |name: &str, reader: &str| OutputPlan {
        name: name.into(),
        reader: reader.into(),
        ty: TYPE,
        error: 0.0,
        shape: Shape::scalar(),
        value: Sec(0),
    };
    Plan {
        roster: Roster::shamir(4, 1).unwrap(),
        prims: Vec::new(),
        rounds: Vec::new(),
        sec_lens: Vec::new(),
        pub_lens: Vec::new(),
        bit_lens: Vec::new(),
        constants: Vec::new(),
        material: Vec::new(),
        inputs: vec![InputPlan {
            name: "x".into(),
            owner: "alice".into(),
            ty: TYPE,
            shape: Shape::new([6]).unwrap(),
            words: 6,
        }],
        outputs: vec![output("y", "alice"), output("z", "carol")],
        stream_words: 1000,
        declarations: vec![],
    }
}
fn continues() -> Continues {
    let border = crate::program::Border { repeat: crate::program::graph::ValueId(5), done: 3 };
    Continues { manifest: [4; 32], border, transcript: [6; 32] }
}

fn manifest() -> Manifest {
    let roster = Roster::shamir(4, 1).unwrap();
    Manifest {
        protocol: PROTOCOL,
        nonce: [9; 32],
        owner: owner().public(),
        roster,
        nodes: (1..=4).map(|i| node(i).public()).collect(),
        spares: vec![node(5).public()],
        epoch: 0,
        continues: None,
        planning: Default::default(),
        program: [2; 32],
        plan: plan_digest(&plan()),
        inputs: vec![InputEntry { name: "x".into(), owner: owner().public(), words: 6, root: root(&delta()) }],
        keys: vec![KeyHash([4; 32]); 4],
        stream_words: 1000,
        attempts: 2,
        outputs: vec![
            OutputEntry { name: "y".into(), reader: owner().public() },
            OutputEntry { name: "z".into(), reader: reader().public() },
        ],
        expires: NOW + 3600,
        insecure_seeded: false,
        note: "a trial".into(),
    }
}
fn spdz() -> Manifest {
    let mut m = manifest();
    m.roster = Roster::spdz(3).unwrap();
    m.nodes.truncate(3);
    m.spares.clear();
    m.keys.truncate(3);
    m.outputs.truncate(1);
    m
}
/// Signs whatever the attacker (who holds the owner's key) likes, unchecked.
fn signed(m: &Manifest) -> Vec<u8> {
    let bytes = m.to_bytes();
    SignedManifest { signature: owner().sign(SIGNED, &bytes), bytes }.to_bytes()
}
fn verify(bytes: &[u8]) -> Result<CheckedManifest, ManifestError> {
    SignedManifest::verify(bytes, NOW, &Limits::default())
}
fn refused(change: impl Fn(&mut Manifest)) -> ManifestError {
    let mut m = manifest();
    change(&mut m);
    verify(&signed(&m)).unwrap_err()
}
/// The same job on SPDZ in three attempts, and another one if the note is.
pub(in crate::job) fn checked_spdz(note: &str) -> CheckedManifest {
    let m = Manifest { attempts: 3, note: note.to_owned(), ..spdz() };
    verify(&m.sign(&owner()).unwrap().to_bytes()).unwrap()
}
pub(in crate::job) fn checked() -> CheckedManifest {
    static CHECKED: LazyLock<CheckedManifest> =
        LazyLock::new(|| verify(&manifest().sign(&owner()).unwrap().to_bytes()).unwrap());
    CHECKED.clone()
}

#[test]
fn what_the_owner_signs_arrives() {
    let checked = checked();
    assert_eq!(*checked.manifest(), manifest());
    assert_eq!(checked.slot_of(&node(3).public()), Some(Slot(3)));
    assert_eq!(checked.slot_of(&owner().public()), None);
    assert_eq!(checked.node(Slot(4)), Some(&node(4).public()));
    assert_eq!(checked.node(Slot(0)), None);
    assert_eq!(checked.node(Slot(5)), None);
    assert_eq!(checked.stream(), StreamPlace { manifest: checked.digest(), stream: 0, attempts: 2, words: 1000 });
    assert_eq!(verify(&signed(&spdz())).unwrap().manifest(), &spdz());
}

#[test]
fn every_field_moves_the_digest() {
    let changes: [fn(&mut Manifest); 14] = [
        |_| {},
        |m| m.nonce[0] = 0,
        |m| m.nodes.swap(0, 1),
        |m| m.program[0] = 0,
        |m| m.plan[0] ^= 1,
        |m| m.inputs[0].root[0] ^= 1,
        |m| m.inputs[0].name = "w".into(),
        |m| m.keys[0] = KeyHash([0; 32]),
        |m| m.stream_words += 1,
        |m| m.attempts = 1,
        |m| m.outputs[1].reader = owner().public(),
        |m| m.expires += 1,
        |m| m.note.clear(),
        |m| m.outputs.swap(0, 1),
    ];
    let digest = |change: &fn(&mut Manifest)| {
        let mut m = manifest();
        change(&mut m);
        verify(&signed(&m)).unwrap().digest()
    };
    let distinct: BTreeSet<_> = changes.iter().map(digest).collect();
    assert_eq!(distinct.len(), changes.len());
}

#[test]
fn another_release_is_named() {
    assert_eq!(refused(|m| m.protocol = PROTOCOL + 1), ManifestError::Version { found: PROTOCOL + 1 });
    // ... even if the rest of its encoding is unknown.
    let bytes = vec![7, 1, 2, 3];
    let future = SignedManifest { signature: owner().sign(SIGNED, &bytes), bytes }.to_bytes();
    assert_eq!(verify(&future).unwrap_err(), ManifestError::Version { found: 7 });
}

#[test]
fn a_manifest_that_the_owner_did_not_sign_is_refused() {
    let bytes = manifest().to_bytes();
    let forged = SignedManifest { signature: reader().sign(SIGNED, &bytes), bytes };
    assert!(matches!(verify(&forged.to_bytes()), Err(ManifestError::Signature { .. })));
    // A signature of the owner over other kinds of messages does not count.
    let bytes = manifest().to_bytes();
    let other = SignedManifest { signature: owner().sign("receipt", &bytes), bytes };
    assert!(matches!(verify(&other.to_bytes()), Err(ManifestError::Signature { .. })));
    assert!(matches!(manifest().sign(&reader()), Err(ManifestError::Signature { .. })));
}

#[test]
fn the_roster_must_hold_distinct_parties() {
    let (first, second) = (Slot(1), Slot(3));
    assert_eq!(refused(|m| m.nodes[2] = m.nodes[0]), ManifestError::RepeatedNode { first, second });
    // The same signer under another sealing key is still the same party.
    let twin = PublicKey::new(*node(1).public().identity(), *node(7).public().sealing()).unwrap();
    assert_eq!(refused(|m| m.nodes[2] = twin), ManifestError::RepeatedNode { first, second });
    assert_eq!(refused(|m| m.nodes[1] = m.owner), ManifestError::OwnerIsNode { slot: Slot(2) });
    assert!(matches!(refused(|m| m.nodes.truncate(3)), ManifestError::Count { what: "node keys", .. }));
    assert!(matches!(refused(|m| m.keys.truncate(3)), ManifestError::Count { what: "key hashes", .. }));
    assert_eq!(refused(|m| m.epoch = 1), ManifestError::Epoch { found: 1, continues: false });
    assert_eq!(refused(|m| m.continues = Some(continues())), ManifestError::Epoch { found: 0, continues: true });
}

#[test]
fn spares_are_distinct_parties_that_read_nothing_and_can_take_over() {
    let (first, second) = (Slot(2), Slot(5));
    assert_eq!(refused(|m| m.spares[0] = m.nodes[1]), ManifestError::RepeatedNode { first, second });
    assert_eq!(refused(|m| m.spares[0] = m.owner), ManifestError::OwnerIsNode { slot: Slot(5) });
    assert!(matches!(refused(|m| m.outputs[1].reader = m.spares[0]), ManifestError::NodeReads { .. }));
    let five = |m: &mut Manifest| m.spares = (5..10).map(|i| node(i).public()).collect();
    assert!(matches!(refused(five), ManifestError::Count { what: "spares", found: 5, .. }));
    // Readers would lack receipts, or nobody could take over.
    let three = |m: &mut Manifest| {
        m.roster = Roster::shamir(3, 1).unwrap();
        m.nodes.truncate(3);
        m.keys.truncate(3);
    };
    assert!(refused(three).to_string().contains("at least 3t + 1 nodes"));
    let mut m = spdz();
    m.spares = vec![node(5).public()];
    assert!(matches!(verify(&signed(&m)).unwrap_err(), ManifestError::Spares { .. }));
    let mut by_kings = plan();
    by_kings.rounds = vec![crate::program::plan::Round { king: true, ..Default::default() }];
    let reason = checked().check_spares(&by_kings).unwrap_err().to_string();
    assert!(reason.contains("--openings all-to-all"), "{reason}");
    assert_eq!(checked().check_spares(&plan()), Ok(()));
    assert_eq!((checked().slot_of(&node(5).public()), checked().node(Slot(5))), (None, None));
}

#[cfg(feature = "net")]
#[test]
fn spares_are_numbered_after_the_nodes() {
    let mut m = manifest();
    m.spares = vec![node(5).public()];
    let checked = verify(&signed(&m)).unwrap();
    assert_eq!(checked.agent(Slot(5)), Some(&node(5).public()));
    assert_eq!((checked.agent(Slot(0)), checked.agent(Slot(6)), checked.agents()), (None, None, 5));
    assert_eq!(checked.agent_of(node(5).public().identity()), Some(Slot(5)));
}

#[test]
fn only_the_dealer_reads_spdz_outputs() {
    let mut m = spdz();
    m.outputs[0].reader = reader().public();
    let refused = verify(&signed(&m)).unwrap_err();
    assert!(matches!(refused, ManifestError::SpdzReader { .. }));
    assert_eq!(m.sign(&owner()).unwrap_err(), refused);
}

#[test]
fn every_input_is_the_owners() {
    assert!(matches!(refused(|m| m.inputs[0].owner = reader().public()), ManifestError::OtherOwner { .. }));
}

#[test]
fn names_are_short_distinct_and_printable() {
    for bad in [String::new(), "x".repeat(129), "a\nb".into(), "a\u{1b}[31m".into()] {
        assert!(matches!(refused(|m| m.inputs[0].name = bad.clone()), ManifestError::Text { what: "input", .. }));
        assert!(matches!(refused(|m| m.outputs[0].name = bad.clone()), ManifestError::Text { what: "output", .. }));
    }
    assert!(matches!(refused(|m| m.note = "n".repeat(281)), ManifestError::Text { what: "note", .. }));
    let twice = refused(|m| m.outputs[1].name = "y".into());
    assert_eq!(twice, ManifestError::RepeatedName { what: "output", name: "y".into() });
}

#[test]
fn counts_and_sizes_are_capped() {
    assert!(matches!(refused(|m| m.outputs.clear()), ManifestError::Count { what: "outputs", .. }));
    for attempts in [0, MAX_ATTEMPTS + 1, u32::MAX] {
        assert!(matches!(refused(|m| m.attempts = attempts), ManifestError::Count { what: "attempts", .. }));
    }
    let limit = |change: fn(&mut Manifest)| match refused(change) {
        ManifestError::Limit { what, .. } => what,
        other => panic!("{other}"),
    };
    assert_eq!(limit(|m| m.attempts = MAX_ATTEMPTS), "attempts");
    assert_eq!(limit(|m| m.stream_words = u64::MAX), "words of material");
    assert_eq!(limit(|m| m.inputs[0].words = u64::MAX), "words of input");
    assert_eq!(limit(|m| m.expires = u64::MAX), "seconds until it expires");
    let summed = limit(|m| {
        m.inputs[0].words = u64::MAX;
        m.inputs.push(InputEntry { name: "x2".into(), ..m.inputs[0].clone() });
    });
    assert_eq!(summed, "words of input");
    let many = |m: &mut Manifest| {
        m.outputs = (0..257).map(|i| OutputEntry { name: i.to_string(), ..m.outputs[0].clone() }).collect()
    };
    assert!(matches!(refused(many), ManifestError::Count { what: "outputs", found: 257, .. }));
    assert!(matches!(verify(&vec![0; MAX_MANIFEST_BYTES + 1]), Err(ManifestError::TooLarge { .. })));
    // A length prefix far beyond the bytes allocates nothing and is refused.
    assert!(matches!(verify(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]), Err(ManifestError::Malformed { found: 7 })));
}

#[test]
fn an_expired_or_insecure_job_is_refused() {
    assert_eq!(refused(|m| m.expires = NOW), ManifestError::Expired { expires: NOW, now: NOW });
    assert_eq!(refused(|m| m.insecure_seeded = true), ManifestError::Insecure);
    let mut m = manifest();
    m.insecure_seeded = true;
    let test_node = Limits { insecure_seeded: true, ..Limits::default() };
    assert!(SignedManifest::verify(&signed(&m), NOW, &test_node).is_ok());
}

#[test]
fn inputs_are_accepted_by_their_signed_root() {
    let (checked, good) = (checked(), encode_words(&delta()));
    assert_eq!(checked.accept_input(0, &good).unwrap().unwrap(), delta());
    let mut bad = good.clone();
    bad[0] ^= 1;
    assert!(matches!(checked.accept_input(0, &bad), Some(Err(TranscriptError::Root { .. }))));
    assert!(matches!(checked.accept_input(0, &good[8..]), Some(Err(TranscriptError::Length { .. }))));
    assert!(checked.accept_input(1, &good).is_none());
}

#[test]
fn the_plan_must_be_the_signed_one() {
    assert_eq!(checked().check_plan(&[2; 32], &plan()), Ok(()));
    let what = |program: [u8; 32], change: fn(&mut Plan, &mut Manifest)| {
        let (mut p, mut m) = (plan(), manifest());
        change(&mut p, &mut m);
        match verify(&signed(&m)).unwrap().check_plan(&program, &p).unwrap_err() {
            ManifestError::Plan { what, .. } => what,
            other => panic!("{other}"),
        }
    };
    assert_eq!(what([3; 32], |_, _| {}), "the program's digest");
    assert_eq!(what([2; 32], |p, _| p.pub_lens.push(1)), "the plan's digest");
    assert_eq!(what([2; 32], |p, _| p.roster = Roster::shamir(5, 1).unwrap()), "the roster");
    // The owner signs a manifest whose parts do not fit its own plan.
    assert_eq!(what([2; 32], |_, m| m.stream_words = 1), "the length of the material stream");
    assert_eq!(what([2; 32], |_, m| m.inputs.clear()), "the number of inputs");
    assert_eq!(what([2; 32], |_, m| m.inputs[0].name = "w".into()), "the name of an input");
    assert_eq!(what([2; 32], |_, m| m.inputs[0].words = 7), "the length of input \"x\"");
    assert_eq!(what([2; 32], |_, m| m.outputs.truncate(1)), "the number of outputs");
    assert_eq!(what([2; 32], |_, m| m.outputs.swap(0, 1)), "the name of an output");
    let two_keys = what([2; 32], |p, m| {
        p.outputs[1].reader = "alice".into();
        m.plan = plan_digest(p);
    });
    assert_eq!(two_keys, "the key of reader \"alice\"");
}

#[test]
fn errors_are_one_line() {
    for e in [
        refused(|m| m.epoch = 1),
        refused(|m| m.continues = Some(continues())),
        refused(|m| m.inputs[0].name = "a\nb".into()),
        refused(|m| m.attempts = 0),
    ] {
        assert!(!e.to_string().contains('\n'), "{e}");
    }
}

#[test]
fn the_wire_form_is_frozen() {
    // The layout of plans may change from release to release, this form may not.
    let wire = Manifest { plan: [3; 32], ..manifest() }.sign(&owner()).unwrap().to_bytes();
    insta::assert_snapshot!(hex(&wire), @"eb06050909090909090909090909090909090909090909090909090909090909090909c5c5ef0c30c544c4c4ec79a44bbf7c6e666d4bbb6201bfcfadc2a2c8b040a25be23fca4411863ae6db83c3f6bea63f520bc8700a422db33454231c5ca075485600040104c4759519b254fb39d091ef49b85b4e3c1f4b778d70c27c1528f21160a29730ae247442aae3870569ec53bbc14357149a52a4607eb87787e1c145f1c444d5ea5a65172bf44dab76b27ecd4f747e2b7c748d239527d1a4a2d0e04b30791d2810cc1c02b968058534ebe3020b27691252faf144e0e4376c7b94fcd542c8df767d0d7e0dcb6028f5522d75124d0257ee4f28c50b21fb4cf9407081cb0633c17848e9f0deee55c12f4b8c7b320a977a2ed6f46ed7f4ac14d546abd08981a57795b65bfcd3f1bd965b1ada942c4226fd5760a6f77a07dfe7aef9e6af84f913df22f214b19c3b43f60ea6c2f411b273e3f09b64b4d6a3a6522e4a135ad8f666843e1f01012530588cb8b3f2000dc925ba52723243cf83d56bc4eb6a88246daa0b7cfc4e5f01c0bf46bff019757fd9cecf3c936d8a18e84455ce9c3f8fef28945524af14680000904ec0843d00000002020202020202020202020202020202020202020202020202020202020202020303030303030303030303030303030303030303030303030303030303030303010178c5c5ef0c30c544c4c4ec79a44bbf7c6e666d4bbb6201bfcfadc2a2c8b040a25be23fca4411863ae6db83c3f6bea63f520bc8700a422db33454231c5ca07548560652a4cb084facbef1394d3d4d06604c896db2f0dbd3fea9de23679c1f82d6017e040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404e80702020179c5c5ef0c30c544c4c4ec79a44bbf7c6e666d4bbb6201bfcfadc2a2c8b040a25be23fca4411863ae6db83c3f6bea63f520bc8700a422db33454231c5ca0754856017a8eceb634a6a64b2fc83afe97c1f972d3d5004a2122b1e6d44961a31ab6110aa74b1a76834e44b63242e8b402279f65c3e8556e7a410bae3f66434783c2e2585e90c0a7da0600076120747269616c8f6eec04178631e2248513d43ba8b9287386fb0e463459a083cd5dace37f1487eadfe2ac540f61e75f12063996186176bac8563c948cf3e352decd40973e150a");
    insta::assert_snapshot!(hex(&verify(&wire).unwrap().digest()), @"d30fdb9ad49c649265aa88160aa7bbdebfd36e225ddbac99031142b199eb5a08");
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(verify(&bytes).is_err());
    }

    #[test]
    fn every_changed_byte_is_refused(at in 0usize..10_000, bit in 0u32..8) {
        let mut wire = signed(&manifest());
        let at = at % wire.len();
        wire[at] ^= 1 << bit;
        prop_assert!(verify(&wire).is_err());
    }

    #[test]
    fn cut_or_lengthened_manifests_are_refused(cut in 0usize..10_000, extra in 1usize..8) {
        let wire = signed(&manifest());
        prop_assert!(verify(&wire[..cut % wire.len()]).is_err());
        prop_assert!(verify(&[&wire[..], &vec![0; extra]].concat()).is_err());
    }
}

#[test]
fn a_node_is_no_reader() {
    let mut m = manifest();
    m.outputs[1].reader = node(1).public();
    let refused = m.sign(&owner()).unwrap_err();
    assert!(matches!(refused, ManifestError::NodeReads { .. }), "{refused}");
}

#[test]
fn a_plan_that_needs_more_memory_than_the_node_gives_is_refused() {
    let b = crate::program::Builder::new();
    let x = b.input("x", "alice", crate::program::Type::bit(), [1]);
    b.output("z", "alice", &x.broadcast([1 << 20]).sum(0));
    let plan = b.finish().unwrap().plan(Roster::shamir(4, 1).unwrap()).unwrap();
    let limits = Limits { live_words: 1 << 19, ..Limits::default() };
    assert!(matches!(limits.check_memory(&plan), Err(ManifestError::Limit { .. })));
    assert!(Limits::default().check_memory(&plan).is_ok());
}
