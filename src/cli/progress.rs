//! How far a job has come, on one line of the terminal.

use std::collections::BTreeMap;

use indicatif::{ProgressBar, ProgressStyle};

use crate::owner::Progress;
use crate::roster::{Roster, Slot};

/// A bar for the slowest node; shows nothing if stderr is no terminal.
pub struct Bar {
    bar: ProgressBar,
    nodes: usize,
    stage: &'static str,
    reached: BTreeMap<Slot, u32>,
}

impl Bar {
    /// A bar that has not begun.
    pub fn new(roster: Roster) -> Self {
        let bar = ProgressBar::new(u64::from(roster.nodes()));
        let style = ProgressStyle::with_template("{msg:28} [{bar:32}] {pos}/{len} {elapsed}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, nodes: roster.nodes().into(), stage: "", reached: BTreeMap::new() }
    }

    /// Takes a report of the client.
    pub fn show(&mut self, progress: Progress) {
        match progress {
            Progress::Connected { slot } => self.count("linking nodes", slot),
            Progress::Accepted { slot } => self.count("nodes checking the job", slot),
            Progress::Verified { slot } => self.count("nodes expanding masks", slot),
            Progress::Stored { slot, segments, of } => self.least("dealing material, segments", slot, segments, of),
            Progress::Round { slot, round, of } => self.least("computing, rounds", slot, round, of),
            Progress::Stopped { slot, attempt, of } if attempt > of => self.count("waits for beaverdam resume", slot),
            Progress::Stopped { slot, .. } => self.count("waits for a lost node", slot),
            Progress::Done { slot } => self.count("fetching results", slot),
        }
    }

    fn count(&mut self, stage: &'static str, slot: Slot) {
        self.enter(stage);
        self.reached.insert(slot, 1);
        self.bar.set_length(self.nodes as u64);
        self.bar.set_position(self.reached.len() as u64);
    }

    fn least(&mut self, stage: &'static str, slot: Slot, at: u32, of: u32) {
        self.enter(stage);
        self.reached.insert(slot, at);
        let slowest =
            if self.reached.len() < self.nodes { 0 } else { self.reached.values().copied().min().unwrap_or(0) };
        self.bar.set_length(of.into());
        self.bar.set_position(slowest.into());
    }

    fn enter(&mut self, stage: &'static str) {
        if self.stage != stage {
            self.stage = stage;
            self.reached.clear();
            self.bar.set_message(stage);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
