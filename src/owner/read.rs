//! From the nodes' receipts and sealed shares to numbers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::OwnerError;
use crate::field::slice::decode_words;
use crate::job::{Agreed, CheckedManifest, Concluded, Limits, SignedManifest, compare};
use crate::keys::SecretKey;
use crate::program::Program;
use crate::program::plan::Plan;
use crate::roster::{Scheme, Slot};
use crate::seal::{SealInfo, Sealed, open};
use crate::sharing::job_keys;

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

/// Verifies receipts and shares of all nodes and decodes the outputs that this
/// key may read.
///
/// In this order: signatures and agreement of the receipts, the sealed bytes
/// against the receipts, then Shamir: decoding with all shares; SPDZ: the MAC
/// of every output word under the α that only the dealer knows. Any failure is
/// an error; there is no partial result.
pub fn read(key: &SecretKey, ticket: &Ticket, concluded: &[Concluded]) -> Result<Results, OwnerError> {
    let (manifest, plan) = ticket.check()?;
    let signed = manifest.manifest();
    let receipts: Vec<_> = concluded.iter().map(|c| c.receipt.clone()).collect();
    let agreed = compare(&receipts, &manifest)?;
    let mut blamed = agreed.blamed();
    // For a reader other than the dealer these keys are not the job's; its
    // outputs are Shamir's, whose verification needs none.
    let dealer = job_keys(&key.dealing(), &signed.nonce, signed.roster);
    let mut outputs = BTreeMap::new();
    for (number, (output, entry)) in (0..).zip(plan.outputs.iter().zip(&signed.outputs)) {
        if entry.reader != key.public() {
            continue;
        }
        let mut shares = Vec::with_capacity(concluded.len());
        for c in concluded {
            let slot = c.receipt.claimed().slot;
            let refused = |reason: String| OwnerError::Share { slot, output: output.name.clone(), reason };
            let sealed = c.sealed.get(number as usize).ok_or_else(|| refused("it is missing".into()))?;
            if !agreed.sealed_by(slot, number, sealed) {
                return Err(OwnerError::NotSigned { slot, output: output.name.clone() });
            }
            let Ok((share, [])) = postcard::take_from_bytes::<Sealed>(sealed) else {
                return Err(refused("it is not sealed as this version seals".into()));
            };
            let info = SealInfo { manifest: manifest.digest(), output: number, sender: slot, reader: entry.reader };
            let plain = open(key, &info, &share)?;
            shares.push((slot, decode_words(&plain).map_err(|e| refused(e.to_string()))?));
        }
        let n = output.shape.len();
        let expected = if signed.roster.scheme() == Scheme::Spdz { 2 * n } else { n };
        if let Some((slot, words)) = shares.iter().find(|(_, words)| words.len() != expected) {
            let reason = format!("found {} words, expected {expected}", words.len());
            return Err(OwnerError::Share { slot: *slot, output: output.name.clone(), reason });
        }
        let failed = |source| OwnerError::Output { output: output.name.clone(), source };
        let verified = dealer.verify_output(n, &shares).map_err(failed)?;
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
