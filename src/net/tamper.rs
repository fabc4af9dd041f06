//! A node that lies, for tests and for the example that shows what becomes of
//! one: what it sends to other nodes is changed on its way out.
//!
//! Nothing that a user can set makes a node do this; a program has to be
//! written that does. What is changed, the function knows that it is given:
//! this room only hands it the bytes.

use std::sync::Arc;

use super::Message;
use crate::roster::Slot;

type Change = dyn Fn(Slot, &mut Vec<u8>) + Send + Sync;

/// Changes the frames that one node sends over its mesh.
#[derive(Clone)]
#[doc(hidden)]
pub struct Tamper(Arc<Change>);

impl Tamper {
    /// Test equipment: a node of which this is a part is corrupt. The function
    /// is given each frame and its receiver.
    pub fn insecure_for_tests(change: impl Fn(Slot, &mut Vec<u8>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(change))
    }

    pub(super) fn change(&self, to: Slot, frame: Message) -> Message {
        let mut bytes = frame.joined().into();
        (self.0)(to, &mut bytes);
        bytes.into()
    }
}

impl std::fmt::Debug for Tamper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tamper")
    }
}
