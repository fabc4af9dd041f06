//! From the nodes' receipts and sealed shares to numbers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::OwnerError;
use crate::field::Fp61;
use crate::field::slice::decode_words;
use crate::job::{Agreed, CheckedManifest, Concluded, Limits, Receipt, SignedManifest, compare};
use crate::keys::SecretKey;
use crate::program::Program;
use crate::program::plan::Plan;
use crate::roster::{Scheme, Slot};
use crate::seal::{SealInfo, Sealed, open};
use crate::sharing::{OutputError, job_keys};

/// What is needed to read a job's result, beside the reader's key. It holds no
/// secret: the signed manifest and the program.
#[derive(Clone, Serialize, Deserialize)]
pub struct Ticket {
    pub(super) manifest: Vec<u8>,
    pub(super) program: Vec<u8>,
}

impl Ticket {
    /// The file form.
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("bytes always encode")
    }

    /// Reads the file form.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, OwnerError> {
        match postcard::take_from_bytes(bytes) {
            Ok((ticket, [])) => Ok(ticket),
            _ => Err(OwnerError::Ticket { found: bytes.len() }),
        }
    }

    /// Checks the manifest's signature and that program and plan are the ones
    /// it names.
    pub fn check(&self) -> Result<(CheckedManifest, Plan), OwnerError> {
        let manifest = SignedManifest::verify(&self.manifest, 0, &Limits::unlimited())?;
        let program = Program::from_bytes(&self.program)?;
        let plan = program.plan_with(manifest.manifest().roster, manifest.manifest().planning)?;
        manifest.check_plan(&program.digest(), &plan)?;
        Ok((manifest, plan))
    }
}

/// A verified result.
pub struct Results {
    /// values by the outputs' names, row-major, in real units; outputs for
    /// other readers are left out
    pub outputs: BTreeMap<String, Vec<f64>>,
    /// the receipts, which say the same: a threshold attestation (correct if
    /// the scheme's assumption on corrupt nodes held), not a proof
    pub agreed: Agreed,
    /// slots whose shares were wrong: found so by more than t nodes, or here
    pub blamed: Vec<Slot>,
}

/// Verifies receipts and shares and decodes the outputs that this key may read.
///
/// In this order: signatures and agreement of the receipts, the sealed bytes
/// against the receipts, then Shamir: decoding of the shares of at least 2t + 1 nodes;
/// SPDZ: the MAC of every output word under the α that only the dealer knows. Under Shamir
/// a receipt or share that cannot be used is as good as missing; if too few are
/// left it is an error, in SPDZ always. There is no partial result.
pub fn read(key: &SecretKey, ticket: &Ticket, concluded: &[Concluded]) -> Result<Results, OwnerError> {
    let (manifest, plan) = ticket.check()?;
    let signed = manifest.manifest();
    let receipts: Vec<_> = concluded.iter().map(|c| c.receipt.clone()).collect();
    let agreed = compare(&receipts, &manifest)?;
    let mut blamed = agreed.blamed();
    // Somebody else may have brought a node's receipt with other sealed bytes.
    let brought = |r: &Receipt| concluded.iter().filter(|c| c.receipt.claimed() == r).collect();
    let agreeing: Vec<(Slot, Vec<&Concluded>)> = agreed.receipts().iter().map(|r| (r.slot, brought(r))).collect();
    // For a reader other than the dealer these keys are not the job's; its
    // outputs are Shamir's, whose verification needs none.
    let dealer = job_keys(&key.dealing(), &signed.nonce, signed.roster);
    let mut outputs = BTreeMap::new();
    for (number, (output, entry)) in (0..).zip(plan.outputs.iter().zip(&signed.outputs)) {
        if entry.reader != key.public() {
            continue;
        }
        let n = output.shape.len();
        let expected = if signed.roster.scheme() == Scheme::Spdz { 2 * n } else { n };
        let (mut shares, mut refused) = (Vec::with_capacity(concluded.len()), None);
        for (slot, brought) in &agreeing {
            let place = Place { manifest: &manifest, agreed: &agreed, slot: *slot, number, output: &output.name };
            match place.first(key, brought, expected) {
                Ok(words) => shares.push((*slot, words)),
                // One that cannot be used is one that is missing.
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        let verified = match (dealer.verify_output(n, &shares), refused) {
            (Ok(verified), _) => verified,
            // Why there are too few.
            (Err(OutputError::TooFew { .. }), Some(refused)) => return Err(refused),
            (Err(source), _) => return Err(OwnerError::Output { output: output.name.clone(), source }),
        };
        blamed.extend(&verified.blamed);
        let wrong = |source| OwnerError::Decode { output: output.name.clone(), source };
        let integers = crate::field::Integers.decode(&verified.words).map_err(wrong)?;
        let ulp = output.ty.ulp();
        outputs.insert(output.name.clone(), integers.into_iter().map(|v| v as f64 * ulp).collect());
    }
    if outputs.is_empty() {
        return Err(OwnerError::NotAReader { key: key.public().short() });
    }
    blamed.sort();
    blamed.dedup();
    Ok(Results { outputs, agreed, blamed })
}

/// One node's share of one output.
struct Place<'a> {
    manifest: &'a CheckedManifest,
    agreed: &'a Agreed,
    slot: Slot,
    number: u32,
    output: &'a str,
}

impl Place<'_> {
    /// From the first of what was brought in the node's name that it signed, or why none is.
    fn first(&self, key: &SecretKey, brought: &[&Concluded], expected: usize) -> Result<Vec<Fp61>, OwnerError> {
        let mut shares = brought.iter().map(|concluded| self.share(key, concluded, expected));
        let first = shares.next().expect("every receipt was brought with something");
        first.or_else(|error| shares.find_map(Result::ok).ok_or(error))
    }

    fn share(&self, key: &SecretKey, concluded: &Concluded, expected: usize) -> Result<Vec<Fp61>, OwnerError> {
        let Self { manifest, agreed, slot, number, output } = *self;
        let refused = |reason: String| OwnerError::Share { slot, output: output.to_owned(), reason };
        let sealed = concluded.sealed.get(number as usize).ok_or_else(|| refused("it is missing".into()))?;
        if !agreed.sealed_by(slot, number, sealed) {
            return Err(OwnerError::NotSigned { slot, output: output.to_owned() });
        }
        let Ok((share, [])) = postcard::take_from_bytes::<Sealed>(sealed) else {
            return Err(refused("it is not sealed as this version seals".into()));
        };
        let info = SealInfo { manifest: manifest.digest(), output: number, sender: slot, reader: key.public() };
        let words = decode_words(&open(key, &info, &share)?).map_err(|e| refused(e.to_string()))?;
        if words.len() != expected {
            return Err(refused(format!("found {} words, expected {expected}", words.len())));
        }
        Ok(words)
    }
}
