//! What a reader is given is refused, unless it is what the nodes signed and
//! what they computed. Each test changes the results of a finished job as a
//! node, or whoever carries them, could.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Dealing, OwnerError, Request, Results, Ticket, prepare, read};
use crate::backend::Device;
use crate::entropy::Entropy;
use crate::field::P;
use crate::job::{Concluded, ReceiptError, SignedManifest, local, sealed_hash};
use crate::keys::SecretKey;
use crate::program::{Builder, Type};
use crate::roster::{Roster, Scheme, Slot};
use crate::seal::{SealError, SealInfo, open, seal};
use crate::sharing::OutputError;

/// A finished job: y and z for its owner, and w for bob where the scheme lets
/// somebody else read.
struct Done {
    owner: Arc<SecretKey>,
    bob: SecretKey,
    nodes: Vec<SecretKey>,
    ticket: Ticket,
    concluded: Vec<Concluded>,
}

const EXPECTED: [(&str, [f64; 2]); 2] = [("y", [9.0, 16.0]), ("z", [-3.0, 4.0])];

impl Done {
    fn new(roster: Roster, seed: u64) -> Self {
        let owner = Arc::new(SecretKey::insecure_from_seed(seed, "owner"));
        let bob = SecretKey::insecure_from_seed(seed, "bob");
        let key = |slot: Slot| SecretKey::insecure_from_seed(seed, &format!("node {}", slot.0));
        let nodes: Vec<_> = roster.slots().map(key).collect();
        let b = Builder::new();
        let x = b.input("x", "alice", Type::int(-9..=9), [2]);
        b.output("y", "alice", &(&x * &x));
        b.output("z", "alice", &x);
        b.output("w", if shamir(roster) { "bob" } else { "alice" }, &x);
        let program = b.finish().unwrap();
        let request = Request {
            planning: Default::default(),
            program: &program,
            roster,
            nodes: &nodes.iter().map(SecretKey::public).collect::<Vec<_>>(),
            spares: &[],
            inputs: &BTreeMap::from([("x".to_owned(), vec![-3.0, 4.0])]),
            readers: &BTreeMap::from([("bob".to_owned(), bob.public())]),
            attempts: 1,
            expires: 0,
            note: "",
        };
        let entropy = Entropy::insecure_from_seed(seed);
        let job = prepare(&owner, &request, entropy).unwrap();
        let (concluded, _) = local::compute(&job, &nodes, entropy, &Device::Cpu).unwrap();
        Self { ticket: job.ticket(), owner, bob, nodes, concluded }
    }

    fn read(&self) -> Result<Results, OwnerError> {
        read(&self.owner, &self.ticket, &self.concluded)
    }
    /// Where every node's share is needed, why one was refused; elsewhere the
    /// result is right without it.
    fn refused(&self) -> Option<OwnerError> {
        match self.read() {
            Ok(results) => {
                let roster = results.agreed.receipts().len() + results.agreed.left_out().len();
                assert_eq!(roster, 4, "all shares are needed");
                assert!(EXPECTED.iter().all(|(name, values)| results.outputs[*name] == values));
                None
            }
            Err(refused) => Some(refused),
        }
    }

    /// What a node has sealed as its share of an output.
    fn share(&self, slot: Slot, output: u32) -> (SealInfo, Vec<u8>) {
        let manifest = SignedManifest::verify(&self.ticket.manifest, 0, &crate::job::Limits::unlimited()).unwrap();
        let info = SealInfo { manifest: manifest.digest(), output, sender: slot, reader: self.owner.public() };
        let sealed = postcard::from_bytes(&self.concluded[slot.index()].sealed[output as usize]).unwrap();
        (info, open(&self.owner, &info, &sealed).unwrap().to_vec())
    }

    /// A corrupt node seals another share of an output than it computed.
    fn lie(&mut self, slot: Slot, output: u32, change: impl Fn(&mut Vec<u8>)) {
        let (info, mut plain) = self.share(slot, output);
        change(&mut plain);
        let sealed = postcard::to_stdvec(&seal(&info, &plain).unwrap()).unwrap();
        self.concluded[slot.index()].sealed[output as usize] = sealed.into();
        self.sign(slot);
    }

    /// A corrupt node signs whatever it hands out.
    fn sign(&mut self, slot: Slot) {
        let Concluded { receipt, sealed } = &mut self.concluded[slot.index()];
        let mut claimed = receipt.claimed().clone();
        claimed.outputs = sealed.iter().map(|s| sealed_hash(s)).collect();
        *receipt = claimed.sign(&self.nodes[slot.index()]);
    }
}

fn shamir(roster: Roster) -> bool {
    roster.scheme() == Scheme::Shamir
}

fn rosters() -> [Roster; 3] {
    [Roster::shamir(4, 1), Roster::shamir(3, 1), Roster::spdz(3)].map(Result::unwrap)
}

/// Adds 1 to the first word.
fn bump(plain: &mut [u8]) {
    let word = u64::from_le_bytes(plain[..8].try_into().unwrap());
    plain[..8].copy_from_slice(&((word + 1) % P).to_le_bytes());
}

#[test]
fn an_honest_result_is_read_by_its_readers_alone() {
    for roster in rosters() {
        let done = Done::new(roster, 1);
        let outputs = done.read().unwrap().outputs;
        assert!(EXPECTED.iter().all(|(name, values)| outputs[*name] == values), "{roster}: {outputs:?}");
        assert_eq!(outputs.contains_key("w"), !shamir(roster));

        let theirs = read(&done.bob, &done.ticket, &done.concluded);
        if shamir(roster) {
            let outputs = theirs.unwrap().outputs;
            assert_eq!(outputs.into_iter().collect::<Vec<_>>(), [("w".to_owned(), vec![-3.0, 4.0])]);
        } else {
            assert!(matches!(theirs, Err(OwnerError::NotAReader { .. })));
        }
        let stranger = SecretKey::insecure_from_seed(1, "stranger");
        let refused = read(&stranger, &done.ticket, &done.concluded).err().unwrap();
        assert!(matches!(refused, OwnerError::NotAReader { .. }), "{refused}");
    }
}

#[test]
fn shares_that_their_node_did_not_sign_are_refused() {
    let changes: [fn(&mut [Concluded]); 4] = [
        |c| c[1].sealed.swap(0, 1),
        |c| c[1].sealed[0] = c[2].sealed[0].clone(),
        |c| c[1].sealed[0][40] ^= 1,
        |c| _ = c[1].sealed[0].pop(),
    ];
    for roster in rosters() {
        for change in changes {
            let mut done = Done::new(roster, 2);
            change(&mut done.concluded);
            let Some(refused) = done.refused() else { continue };
            assert!(matches!(&refused, OwnerError::NotSigned { slot: Slot(2), output } if output == "y"), "{refused}");
        }
        let mut done = Done::new(roster, 2);
        done.concluded[1].sealed.clear();
        if let Some(refused) = done.refused() {
            assert!(matches!(refused, OwnerError::Share { slot: Slot(2), .. }), "{refused}");
        }
    }
}

#[test]
fn shares_that_were_moved_do_not_open_even_if_signed() {
    for roster in rosters() {
        for from in [(Slot(2), 1), (Slot(3), 0)] {
            let mut done = Done::new(roster, 3);
            done.concluded[1].sealed[0] = done.concluded[from.0.index()].sealed[from.1].clone();
            done.sign(Slot(2));
            let Some(refused) = done.refused() else { continue };
            let moved = matches!(refused, OwnerError::Seal(SealError::Open { sender: Slot(2), output: 0 }));
            assert!(moved, "{refused}");
        }
    }
}

#[test]
fn a_wrong_share_is_corrected_and_named_or_refused_never_believed() {
    for roster in rosters() {
        let mut done = Done::new(roster, 4);
        done.lie(Slot(2), 0, |plain| bump(plain));
        match done.read() {
            Ok(results) => {
                assert_eq!(roster, Roster::shamir(4, 1).unwrap(), "{roster} cannot correct");
                assert_eq!((&results.outputs["y"][..], results.blamed), (&[9.0, 16.0][..], vec![Slot(2)]));
            }
            Err(OwnerError::Output { output, source: OutputError::Mac { word: 0 } }) if output == "y" => {
                assert_eq!(roster, Roster::spdz(3).unwrap());
            }
            Err(OwnerError::Output { output, source: OutputError::Decode(_) }) if output == "y" => {
                assert_eq!(roster, Roster::shamir(3, 1).unwrap());
            }
            Err(other) => panic!("{roster}: {other}"),
        }
        // Two liars are more than any of these Shamir rosters stands.
        done.lie(Slot(3), 0, |plain| bump(plain));
        assert!(matches!(done.read(), Err(OwnerError::Output { .. })), "{roster}");
    }
}

#[test]
fn shares_that_are_no_field_elements_or_of_another_length_are_refused() {
    let changes: [fn(&mut Vec<u8>); 5] = [
        |plain| plain[..8].copy_from_slice(&P.to_le_bytes()),
        |plain| plain[..8].copy_from_slice(&u64::MAX.to_le_bytes()),
        |plain| plain.truncate(plain.len() - 8),
        |plain| plain.truncate(plain.len() - 1),
        |plain| plain.extend_from_slice(&[0; 8]),
    ];
    for roster in rosters() {
        for change in changes {
            let mut done = Done::new(roster, 5);
            done.lie(Slot(2), 0, change);
            let Some(refused) = done.refused() else { continue };
            assert!(matches!(&refused, OwnerError::Share { slot: Slot(2), output, .. } if output == "y"), "{refused}");
        }
    }
}

#[test]
fn receipts_that_lack_differ_or_are_of_another_job_are_refused() {
    for roster in rosters() {
        let mut done = Done::new(roster, 6);
        let last = done.concluded.pop().unwrap();
        let refused = |done: &Done| match done.refused() {
            None => None,
            Some(OwnerError::Receipts(refused)) => Some(refused),
            Some(other) => panic!("{other}"),
        };
        assert!(matches!(refused(&done), None | Some(ReceiptError::Missing { .. })));

        let mut claimed = last.receipt.claimed().clone();
        claimed.transcript[0] ^= 1;
        let receipt = claimed.sign(done.nodes.last().unwrap());
        done.concluded.push(Concluded { receipt, ..last.clone() });
        assert!(matches!(refused(&done), None | Some(ReceiptError::Disagree { what: "the transcript", .. })));

        // The same nodes in another job of theirs: with the one above, two are of no use anywhere.
        let other = Done::new(roster, 7);
        let mut claimed = other.concluded[0].receipt.claimed().clone();
        claimed.slot = Slot(1);
        done.concluded[0].receipt = claimed.sign(&done.nodes[0]);
        assert!(matches!(done.read(), Err(OwnerError::Receipts(_))));
        *done.concluded.last_mut().unwrap() = last;
        assert!(matches!(refused(&done), None | Some(ReceiptError::Job { slot: Slot(1), .. })));
    }
}

/// What is dealt follows from key, ticket and attempt: a run that deals an attempt again, or two that do at once, give no mask to
/// two values. Attempts have masks of their own.
#[test]
fn material_is_dealt_again_alike_from_the_ticket_and_for_each_attempt_anew() {
    let owner = Arc::new(SecretKey::generate().unwrap());
    let b = Builder::new();
    let x = b.input("x", "alice", Type::int(-9..=9), [2]);
    b.output("y", "alice", &(&(&x * &x) * &x));
    let request = Request {
        planning: Default::default(),
        program: &b.finish().unwrap(),
        roster: Roster::spdz(2).unwrap(),
        nodes: &[0, 1].map(|_| SecretKey::generate().unwrap().public()),
        spares: &[],
        inputs: &BTreeMap::from([("x".to_owned(), vec![-3.0, 4.0])]),
        readers: &BTreeMap::new(),
        attempts: 2,
        expires: 1,
        note: "",
    };
    let job = prepare(&owner, &request, Entropy::system()).unwrap();
    let ticket = Ticket::from_bytes(&job.ticket().to_bytes()).unwrap();
    let dealt = |attempt| Dealing::again(&owner, &ticket).unwrap().stream_of(attempt).unwrap().collect::<Vec<_>>();
    let streams: Vec<_> = (0..5).map(dealt).collect();
    assert_eq!(streams[..2].concat(), job.stream().unwrap().collect::<Vec<_>>());
    for (attempt, stream) in (0..).zip(&streams) {
        assert_eq!(dealt(attempt), *stream);
        assert!(streams[..attempt as usize].iter().all(|other| other[0].1 != stream[0].1));
        assert!(stream.iter().all(|(header, _)| header.claimed().attempt == attempt));
    }
    let stranger = Arc::new(SecretKey::generate().unwrap());
    assert!(matches!(Dealing::again(&stranger, &ticket), Err(OwnerError::NotOwner { .. })));
    assert!(matches!(Dealing::again(&owner, &ticket).unwrap().extension(256), Err(OwnerError::Extension(_))));
}
