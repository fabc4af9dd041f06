//! What happens to the nodes of a training, and what is seen of them from
//! outside: the rounds that they report to the owner.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use beaverdam::owner::Progress;
use beaverdam::roster::{Roster, Slot};

use crate::Fault;
use crate::agents::Agents;
use crate::job::Done;

/// What is to happen: to which nodes, and from which rounds on.
pub struct Script {
    kills: Vec<(Slot, u32)>,
    /// the node that lies in the end, or is lost
    pub last: Slot,
    end: u32,
    for_good: bool,
}

/// How long a killed node stays away, in milliseconds, from least to most.
const AWAY: (u32, u32) = (300, 1500);

impl Script {
    /// Moments and nodes by the system's generator. The kills and the lie, or the loss, share the
    /// training's rounds alike, each in the first half of its part, so that a node may catch
    /// up in the second.
    pub fn new(roster: Roster, rounds: u32, kills: u32, for_good: bool) -> Result<Self, Fault> {
        let mut moments = Vec::new();
        for i in 0..=kills {
            let part = f64::from(rounds) / f64::from(kills + 1);
            let within = f64::from(below(1000)?) / 2000.0;
            moments.push((part * (f64::from(i) + within)) as u32);
        }
        let end = moments.pop().unwrap_or(0);
        let slots: Vec<Slot> = roster.slots().collect();
        let count = slots.len() as u32;
        let mut killed: Vec<Slot> = Vec::new();
        while killed.len() < moments.len() {
            // Another one each time, before any is killed again.
            let of_turn = &killed[killed.len() / slots.len() * slots.len()..];
            let left: Vec<Slot> = slots.iter().filter(|slot| !of_turn.contains(slot)).copied().collect();
            killed.push(left[below(left.len() as u32)? as usize]);
        }
        let (kills, last) = (killed.into_iter().zip(moments).collect(), slots[below(count)? as usize]);
        Ok(Self { kills, last, end, for_good })
    }

    /// The node that lies in the end, if one does.
    pub fn liar(&self) -> Option<Slot> {
        (!self.for_good).then_some(self.last)
    }
}

/// A number from 0 to `n` − 1. That some are likelier by 2^−32 harms nobody here.
fn below(n: u32) -> Result<u32, Fault> {
    let random = getrandom::u32().map_err(|e| format!("this system gives no randomness: {e}"))?;
    Ok(random % n)
}

/// What befell a node.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum What {
    Killed,
    Started,
    CaughtUp,
    Lies,
    Lost,
}

impl What {
    pub fn name(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Started => "started again",
            Self::CaughtUp => "caught up",
            Self::Lies => "lies",
            Self::Lost => "lost",
        }
    }
}

/// Something that befell a node.
#[derive(Clone, Copy)]
pub struct Event {
    /// seconds since all nodes had their inputs
    pub at: f64,
    /// the round in which the others were
    pub round: u32,
    pub slot: Slot,
    pub what: What,
}

/// All that happened.
pub struct Story {
    pub roster: Roster,
    pub events: Vec<Event>,
    /// by slot: the rounds that the node reported, and when
    pub rounds: Vec<Vec<(f64, u32)>>,
    pub of: u32,
    pub kills: usize,
    pub returns: usize,
    /// seconds until as many nodes had the result as a reader needs
    pub online: f64,
}

impl Story {
    /// The loss of a node for good, and how long it took from that round on where none was lost.
    pub fn went_on(&self, undisturbed: &Self) -> Option<(Event, f64)> {
        let lost = *self.events.iter().find(|event| event.what == What::Lost)?;
        let there = undisturbed.rounds.iter().flatten().filter(|(_, round)| *round >= lost.round);
        Some((lost, undisturbed.online - there.map(|(at, _)| *at).reduce(f64::min)?))
    }
}

/// Runs a job, whose progress is watched, while the script is played.
pub fn played(
    roster: Roster,
    script: Option<&Script>,
    agents: &Agents,
    job: impl FnOnce(&mut dyn FnMut(Progress)) -> Result<Done, Fault>,
) -> Result<(Done, Story), Fault> {
    let (sender, reports) = channel();
    std::thread::scope(|scope| {
        let stage = scope.spawn(move || {
            let mut stage = Stage::new(roster, reports);
            let played = stage.play(script, agents).map_err(|fault| fault.to_string());
            // Whoever reports must not find that nobody listens.
            stage.until_the_end();
            (played, stage.story())
        });
        let done = watch(sender, job);
        let (played, story) = stage.join().map_err(|_| "the thread that watches the nodes has panicked")?;
        // Why the job failed says more than that it did.
        let done = done?;
        played?;
        Ok((done, story))
    })
}

/// The sender is dropped when the job is over.
fn watch(
    sender: Sender<(Instant, Progress)>,
    job: impl FnOnce(&mut dyn FnMut(Progress)) -> Result<Done, Fault>,
) -> Result<Done, Fault> {
    job(&mut |progress| {
        // The stage listens until there is no sender.
        let _ = sender.send((Instant::now(), progress));
    })
}

/// The nodes, as they are seen.
struct Stage {
    roster: Roster,
    reports: Receiver<(Instant, Progress)>,
    /// when all nodes had their inputs
    begun: Option<Instant>,
    with_inputs: Vec<bool>,
    /// also all material: the owner may leave
    with_all: Vec<bool>,
    /// the round that each node's process has reported last
    now: Vec<Option<u32>>,
    /// when nodes had the result
    done: Vec<f64>,
    /// rounds that were told, in tenths
    told: u32,
    story: Story,
}

/// The job ended before this could be seen.
#[derive(Debug, thiserror::Error)]
#[error("the training was over before {0}: train for more --epochs, or at a higher --latency")]
struct Over(String);

impl Stage {
    fn new(roster: Roster, reports: Receiver<(Instant, Progress)>) -> Self {
        let n = usize::from(roster.nodes());
        let rounds = vec![Vec::new(); n];
        let story = Story { roster, events: Vec::new(), rounds, of: 0, kills: 0, returns: 0, online: 0.0 };
        Self {
            roster,
            reports,
            begun: None,
            with_inputs: vec![false; n],
            with_all: vec![false; n],
            now: vec![None; n],
            done: Vec::new(),
            told: 0,
            story,
        }
    }

    fn play(&mut self, script: Option<&Script>, agents: &Agents) -> Result<(), Fault> {
        let Some(script) = script else { return Ok(()) };
        for (slot, round) in &script.kills {
            let slot = *slot;
            let over = || Over(format!("{slot} could be killed"));
            self.until(|stage| stage.all_beyond(*round)).ok_or_else(over)?;
            agents.kill(slot)?;
            self.story.kills += 1;
            self.happens(slot, What::Killed);
            let away = AWAY.0 + below(AWAY.1 - AWAY.0)?;
            self.wait(Duration::from_millis(away.into()));
            // What was on its way is of the process that is gone.
            self.now[slot.index()] = None;
            agents.start_again(slot)?;
            self.happens(slot, What::Started);
            let over = || Over(format!("{slot} had caught up"));
            self.until(|stage| stage.caught_up(slot)).ok_or_else(over)?;
            self.story.returns += 1;
            self.happens(slot, What::CaughtUp);
        }
        let over = || Over(format!("{} could {}", script.last, if script.for_good { "be killed" } else { "lie" }));
        self.until(|stage| stage.all_beyond(script.end)).ok_or_else(over)?;
        if script.for_good {
            agents.kill(script.last)?;
            self.story.kills += 1;
            self.happens(script.last, What::Lost);
        } else {
            agents.lie(script.last)?;
            self.happens(script.last, What::Lies);
        }
        Ok(())
    }

    /// The round in which the foremost node is.
    fn foremost(&self) -> u32 {
        self.now.iter().flatten().copied().max().unwrap_or(0)
    }

    fn all_beyond(&self, round: u32) -> bool {
        self.with_all.iter().all(|has| *has) && self.now.iter().all(|now| now.is_some_and(|now| now >= round))
    }

    /// It is in the round of the others, or, as seen through its reports, one behind.
    fn caught_up(&self, slot: Slot) -> bool {
        self.now[slot.index()].is_some_and(|now| now > 0 && now + 1 >= self.foremost())
    }

    fn happens(&mut self, slot: Slot, what: What) {
        let event = Event { at: self.since(Instant::now()), round: self.foremost(), slot, what };
        let how = match what {
            What::Killed => "is killed (SIGKILL)",
            What::Started => "is started again, with its key, at its address, on its store",
            What::CaughtUp => "has caught up",
            What::Lost => "is killed (SIGKILL) and stays away",
            What::Lies => "lies from here on: it adds 1 to a share of each opening",
        };
        println!("{:7.2} s, round {:4} of {}: {slot} {how}", event.at, event.round, self.story.of);
        self.story.events.push(event);
    }

    fn since(&self, at: Instant) -> f64 {
        self.begun.map_or(0.0, |begun| at.saturating_duration_since(begun).as_secs_f64())
    }

    /// Takes reports until something holds; none if the job is over before.
    fn until(&mut self, holds: impl Fn(&Self) -> bool) -> Option<()> {
        while !holds(self) {
            let (at, report) = self.reports.recv().ok()?;
            self.take(at, report);
        }
        Some(())
    }

    fn until_the_end(&mut self) {
        // It ends when no more reports can come.
        let _ = self.until(|_| false);
    }

    fn wait(&mut self, time: Duration) {
        let until = Instant::now() + time;
        loop {
            match self.reports.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok((at, report)) => self.take(at, report),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn take(&mut self, at: Instant, report: Progress) {
        match report {
            Progress::Connected { .. }
            | Progress::Accepted { .. }
            | Progress::Verified { .. }
            | Progress::Stopped { .. } => {}
            Progress::Stored { slot, segments, of } => {
                self.with_inputs[slot.index()] = true;
                self.with_all[slot.index()] = segments == of;
                if self.with_inputs.iter().all(|has| *has) {
                    self.begun.get_or_insert(at);
                }
            }
            Progress::Round { slot, round, of } => {
                self.now[slot.index()] = Some(round);
                self.story.of = of;
                let at = self.since(at);
                self.story.rounds[slot.index()].push((at, round));
                let tenth = 10 * self.foremost() / of.max(1);
                if tenth > self.told && tenth < 10 {
                    self.told = tenth;
                    println!("{at:7.2} s, round {:4} of {of}", self.foremost());
                }
            }
            Progress::Done { .. } => {
                let at = self.since(at);
                self.done.push(at);
                if self.done.len() == self.roster.to_read() {
                    self.story.online = at;
                    println!("{at:7.2} s, enough nodes have the result");
                }
            }
        }
    }

    fn story(self) -> Story {
        self.story
    }
}
