//! The rules of one job, the same for every store: pure transitions of an
//! entry, which the store persists.

use serde::{Deserialize, Serialize};

use super::{Job, JobState, Nonce, RESERVE, StoreError, short};

/// What is kept of a job for ever.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    digest: [u8; 32],
    pub(super) state: JobState,
    /// rounds below this may have been used
    pub(super) reserved: u64,
    opened: Option<u32>,
    passed: Option<u32>,
    /// the highest in which this node may have spoken
    pub(super) attempt: u32,
}

/// What a claimed round asks of the store.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// nothing: it lies within what is reserved
    Reserved,
    /// the entry has changed and must be durable before the round is used
    Extended,
}

impl Entry {
    /// A new job, unless the nonce is known. Its first rounds are reserved with it, so that
    /// none waits for the disk.
    pub(super) fn begin(known: Option<&Self>, nonce: &Nonce, digest: [u8; 32]) -> Result<Self, StoreError> {
        let job = short(nonce);
        match known {
            None => Ok(Self {
                digest,
                state: JobState::Running,
                reserved: u64::from(RESERVE),
                opened: None,
                passed: None,
                attempt: 0,
            }),
            Some(known) if known.digest == digest => Err(StoreError::AlreadyStarted { job }),
            Some(known) => Err(StoreError::NonceReused { job, known: short(&known.digest), found: short(&digest) }),
        }
    }

    pub(super) fn job(&self, nonce: Nonce) -> Job {
        Job { nonce, digest: self.digest, state: self.state.clone() }
    }

    pub(super) fn end(&mut self, nonce: &Nonce, state: JobState) -> Result<(), StoreError> {
        self.must_run(nonce)?;
        self.state = state;
        Ok(())
    }

    pub(super) fn must_run(&self, nonce: &Nonce) -> Result<(), StoreError> {
        match &self.state {
            JobState::Running => Ok(()),
            over => Err(StoreError::Over { job: short(nonce), state: over.clone() }),
        }
    }

    pub(super) fn must_be_over(&self, nonce: &Nonce) -> Result<(), StoreError> {
        match self.state {
            JobState::Running => Err(StoreError::StillRunning { job: short(nonce) }),
            JobState::Finished | JobState::Failed(_) => Ok(()),
        }
    }

    /// Claims a round, where `next` is the first that is unused.
    pub(super) fn claim(&mut self, nonce: &Nonce, next: u64, round: u32) -> Result<Claim, StoreError> {
        self.must_run(nonce)?;
        if u64::from(round) < next {
            return Err(StoreError::UsedMaterial { job: short(nonce), round, next });
        }
        if u64::from(round) < self.reserved {
            return Ok(Claim::Reserved);
        }
        self.reserved = u64::from(round) + u64::from(RESERVE);
        Ok(Claim::Extended)
    }

    /// Whether the rounds of a job may be claimed again.
    pub(super) fn resume(&self, nonce: &Nonce) -> Result<(), StoreError> {
        self.must_run(nonce)?;
        match self.opened {
            Some(_) => {
                let reason = "it has opened a check, after which its MAC key may be known";
                Err(StoreError::NoResume { job: short(nonce), reason })
            }
            None => Ok(()),
        }
    }

    /// Another attempt: its material and its checks are its own.
    pub(super) fn begin_attempt(&mut self, nonce: &Nonce, attempt: u32) -> Result<(), StoreError> {
        self.must_run(nonce)?;
        if attempt <= self.attempt {
            return Err(StoreError::UsedAttempt { job: short(nonce), attempt, used: self.attempt });
        }
        if self.open_check().is_some() {
            let reason = "it has opened its part of a check and not seen the end, after which its MAC key may be known";
            return Err(StoreError::NoResume { job: short(nonce), reason });
        }
        (self.attempt, self.reserved, self.opened, self.passed) = (attempt, u64::from(RESERVE), None, None);
        Ok(())
    }

    pub(super) fn open_check(&self) -> Option<u32> {
        self.opened.filter(|_| self.opened != self.passed)
    }

    pub(super) fn check_opened(&mut self, nonce: &Nonce, check: u32) -> Result<(), StoreError> {
        self.must_run(nonce)?;
        if self.open_check().is_some() || self.passed.is_some_and(|passed| check <= passed) {
            return Err(self.check_order(nonce, "opened", check));
        }
        self.opened = Some(check);
        Ok(())
    }

    pub(super) fn check_passed(&mut self, nonce: &Nonce, check: u32) -> Result<(), StoreError> {
        self.must_run(nonce)?;
        if self.open_check() != Some(check) {
            return Err(self.check_order(nonce, "passed", check));
        }
        self.passed = Some(check);
        Ok(())
    }

    fn check_order(&self, nonce: &Nonce, what: &'static str, check: u32) -> StoreError {
        StoreError::CheckOrder { job: short(nonce), what, check, opened: self.opened, passed: self.passed }
    }
}
