//! Works on node processes of this machine, and what they took, phase by phase.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use beaverdam::cli::{BackendArgs, RosterArgs};
use beaverdam::entropy::Entropy;
use beaverdam::keys::SecretKey;
use beaverdam::owner::{Request, prepare};
use beaverdam::program::{Cost, Planning};
use beaverdam::roster::Roster;
use serde::Serialize;

use crate::Fault;
use crate::agents::{Agents, Extra, own_cpu_seconds};
use crate::job::Owner;
use crate::wire::Wire;
use crate::works::{Ready, Work};

/// On what works are measured.
#[derive(Clone)]
pub struct Setting {
    pub roster: Roster,
    pub planning: Planning,
    pub backend: BackendArgs,
    /// flags that shape the network, and threads
    pub extra: Extra,
    /// whether nodes keep what they go on by after they were killed: each of these, in turns
    pub recovery: &'static [bool],
    /// whether it is shaped to what is planned for
    pub shaped: bool,
    /// of the inputs
    pub seed: u64,
    pub repeat: u32,
}

/// Flags of a node on a network that is made slower than it is.
pub fn flags(latency_ms: Option<f64>, mbit: Option<f64>) -> Vec<String> {
    let latency = latency_ms.map(|ms| format!("--shape-latency={ms}"));
    let bandwidth = mbit.map(|mbit| format!("--shape-bandwidth={mbit}"));
    // A slow network is waited for.
    latency.into_iter().chain(bandwidth).chain(["--deadline=3600".to_owned()]).collect()
}

impl Setting {
    /// The same on a network of this latency, one way, and these uplinks.
    pub fn shaped(&self, latency_ms: f64, mbit: f64) -> Self {
        let (latency_us, bandwidth_kbit) = ((latency_ms * 1e3) as u32, (mbit * 1e3) as u32);
        Self {
            planning: Planning { latency_us, bandwidth_kbit, ..self.planning },
            extra: Extra { flags: flags(Some(latency_ms), Some(mbit)), ..self.extra.clone() },
            shaped: true,
            ..self.clone()
        }
    }
}

/// One phase of one run, or the medians of a phase over all runs.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    pub work: String,
    pub scheme: &'static str,
    pub nodes: u8,
    pub threshold: u8,
    /// where the correlated randomness comes from
    pub material: &'static str,
    /// material: the owner deals. prepare: it masks and gives the inputs.
    /// ahead: the nodes expand what the first rounds draw. online: from there
    /// to the last receipt, dealing that goes on meanwhile included. total: the
    /// last three. wire: the links alone
    pub phase: &'static str,
    /// which run; none for medians
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<u32>,
    /// how many runs the medians are of
    #[serde(skip_serializing_if = "Option::is_none")]
    pub median_of: Option<u32>,
    /// whether nodes keep what they go on by after they were killed
    pub recovery: bool,
    /// whether messages were really delayed and the uplinks limited
    pub shaped: bool,
    /// planned for
    pub latency_ms: f64,
    pub bandwidth_mbit: f64,
    pub wall_s: f64,
    /// user and system time of all nodes
    pub cpu_s: Option<f64>,
    pub owner_cpu_s: Option<f64>,
    /// the most that a node sent to other nodes
    pub bytes_per_node: u64,
    /// what all nodes together sent to each other
    pub sent_bytes: u64,
    pub rounds: u32,
    /// largest resident size of any node; of the owner for phase material
    pub peak_mb: Option<f64>,
    /// largest resident size of any node before its first job
    pub idle_mb: Option<f64>,
    /// words alive at once by the plan's prediction
    pub live_mb: f64,
    /// seconds that a node spent in checks, the longest of all
    pub check_s: Option<f64>,
    /// what each node gets of masked inputs and of material
    pub input_bytes: u64,
    pub stream_bytes: u64,
    /// what each node gives its readers, sealed
    pub result_bytes: u64,
    pub predicted_wall_s: f64,
    pub predicted_bytes_per_node: u64,
    pub predicted_rounds: u64,
    /// the machine's load over the last minute, before the run
    pub load: Option<f64>,
}

impl Line {
    /// Lines of one kind have medians.
    fn kind(&self) -> (bool, &'static str) {
        (self.recovery, self.phase)
    }
}

/// What it costs to keep that by which killed nodes go on, online.
#[derive(Debug, Serialize)]
pub struct Overhead {
    /// medians of wall time
    pub with_s: f64,
    pub without_s: f64,
    /// their ratio
    pub wall: f64,
    /// that of the nodes' CPU
    pub cpu: Option<f64>,
}

impl Overhead {
    /// Of medians of nodes that do and of nodes that do not.
    pub fn of(medians: &[Line]) -> Option<Self> {
        let online = |recovery| medians.iter().find(|line| line.kind() == (recovery, "online"));
        let (with, without) = (online(true)?, online(false)?);
        let cpu = with.cpu_s.zip(without.cpu_s).map(|(with, without)| with / without);
        let (with_s, without_s) = (with.wall_s, without.wall_s);
        Some(Self { with_s, without_s, wall: with_s / without_s, cpu })
    }
}

/// Runs a work as often as is set; gives each line to `show` as it comes, and
/// the medians at the end.
pub fn measure(work: Work, setting: &Setting, show: &mut dyn FnMut(&Line)) -> Result<Vec<Line>, Fault> {
    let mut runs = Vec::new();
    let mut take = |run, lines: Vec<Line>| {
        for line in lines {
            let line = Line { run: Some(run), ..line };
            show(&line);
            runs.push(line);
        }
    };
    if let Work::Wire(bytes) = work {
        let mut wire = Wire::start(setting.roster)?;
        for run in 1..=setting.repeat {
            take(run, vec![exchange(work, bytes, setting, &mut wire)?]);
        }
    } else if work.is_material() {
        let ready = work.ready(setting.seed)?;
        for run in 1..=setting.repeat {
            take(run, deal(work, &ready, setting)?);
        }
    } else {
        let ready = work.ready(setting.seed)?;
        let mut owner = Owner::new(None)?;
        // New processes for each work: the greatest size of a process never falls.
        let agents: Vec<_> = setting
            .recovery
            .iter()
            .map(|recovery| {
                let none = (!recovery).then(|| "--no-recovery".to_owned());
                let flags = setting.extra.flags.iter().cloned().chain(none).collect();
                let extra = Extra { flags, ..setting.extra.clone() };
                let agents = Agents::start(setting.roster, &owner.key.public(), None, &setting.backend, &extra)?;
                Ok((*recovery, agents.usage().peak_mb, agents))
            })
            .collect::<Result<_, Fault>>()?;
        for run in 1..=setting.repeat {
            for (recovery, idle_mb, agents) in &agents {
                let lines = compute(work, &ready, setting, (&mut owner, agents))?;
                let of = |line| Line { recovery: *recovery, idle_mb: *idle_mb, ..line };
                take(run, lines.into_iter().map(of).collect());
            }
        }
    }
    let mut kinds: Vec<(bool, &str)> = Vec::new();
    runs.iter().for_each(|line| {
        if !kinds.contains(&line.kind()) {
            kinds.push(line.kind());
        }
    });
    let median = |kind: &(bool, &str)| median(&runs.iter().filter(|line| line.kind() == *kind).collect::<Vec<_>>());
    let medians: Vec<Line> = kinds.iter().map(median).collect();
    medians.iter().for_each(show);
    Ok(medians)
}

/// One run on the nodes.
fn compute(
    work: Work,
    ready: &Ready,
    setting: &Setting,
    (owner, agents): (&mut Owner, &Agents),
) -> Result<Vec<Line>, Fault> {
    let load = load();
    let checked = agents.check_seconds();
    let run = owner.run(&ready.program, &ready.inputs, (setting.roster, setting.planning, agents), "bench")?;
    let plan = ready.program.plan_with(setting.roster, setting.planning)?;
    ready.check(work, &plan, &run.results.outputs)?;
    let blank = Line {
        bytes_per_node: run.bytes(),
        sent_bytes: run.results.agreed.receipts().iter().map(|r| r.sent).sum(),
        rounds: run.results.agreed.rounds(),
        result_bytes: run.given_back,
        peak_mb: run.usage[3].peak_mb,
        load,
        ..line(work, setting, &run.cost)
    };
    let phase = |phase, wall_s, from: usize, to: usize| {
        let [from, to] = [&run.usage[from], &run.usage[to]];
        let cpu_s = difference(from.nodes_cpu, to.nodes_cpu);
        Line { phase, wall_s, cpu_s, owner_cpu_s: difference(from.owner_cpu, to.owner_cpu), ..blank.clone() }
    };
    let silent =
        |name, wall_s, from, to| Line { bytes_per_node: 0, sent_bytes: 0, rounds: 0, ..phase(name, wall_s, from, to) };
    Ok(vec![
        silent("prepare", run.offline - run.ahead, 0, 1),
        silent("ahead", run.ahead, 1, 2),
        Line { check_s: check_s(&checked, &agents.check_seconds()), ..phase("online", run.online, 2, 3) },
        phase("total", run.offline + run.online, 0, 3),
    ])
}

/// The links alone: each node sends so many bytes, as many to each other.
fn exchange(work: Work, bytes: usize, setting: &Setting, wire: &mut Wire) -> Result<Line, Fault> {
    let peers = usize::from(setting.roster.nodes()) - 1;
    let load = load();
    let (wall_s, cpu_s) = wire.exchange((bytes / peers).max(1))?;
    let cost = Cost { rounds: 1, exchanges: 1, sent_bytes: bytes as u64, ..Cost::default() };
    Ok(Line {
        phase: "wire",
        wall_s,
        cpu_s,
        bytes_per_node: bytes as u64,
        sent_bytes: (bytes * (peers + 1)) as u64,
        rounds: 1,
        load,
        ..line(work, setting, &cost)
    })
}

/// The owner alone, which deals all material of the work and sends it nowhere.
fn deal(work: Work, ready: &Ready, setting: &Setting) -> Result<Vec<Line>, Fault> {
    let owner = Arc::new(SecretKey::generate()?);
    let nodes: Vec<_> =
        setting.roster.slots().map(|_| Ok(SecretKey::generate()?.public())).collect::<Result<_, Fault>>()?;
    let expires = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 3600;
    let readers = std::collections::BTreeMap::new();
    let request = Request {
        program: &ready.program,
        roster: setting.roster,
        planning: setting.planning,
        nodes: &nodes,
        spares: &[],
        inputs: &ready.inputs,
        readers: &readers,
        attempts: 1,
        expires,
        note: "bench",
    };
    let prepared = prepare(&owner, &request, Entropy::system())?;
    let cost = prepared.plan().cost();
    if cost.stream_words == 0 {
        return Err(format!(
            "{work}: on {} nothing is dealt for it, since products are local there: try --scheme spdz",
            setting.roster
        )
        .into());
    }
    let load = load();
    let (clock, before) = (Instant::now(), own_cpu_seconds());
    let bytes: u64 = prepared.stream()?.map(|(_, bytes)| bytes.len() as u64).sum();
    let (wall_s, after) = (clock.elapsed().as_secs_f64(), own_cpu_seconds());
    Ok(vec![Line {
        phase: "material",
        wall_s,
        owner_cpu_s: difference(before, after),
        peak_mb: crate::agents::peak_mb("self"),
        stream_bytes: bytes,
        load,
        ..line(work, setting, &cost)
    }])
}

/// What is known before the run.
fn line(work: Work, setting: &Setting, cost: &Cost) -> Line {
    let Setting { roster, planning, .. } = setting;
    let latency = Duration::from_micros(planning.latency_us.into());
    let bits = f64::from(planning.bandwidth_kbit) * 1e3;
    Line {
        work: work.to_string(),
        scheme: RosterArgs::name(*roster),
        nodes: roster.nodes(),
        threshold: roster.threshold(),
        material: "owner",
        phase: "",
        run: None,
        median_of: None,
        recovery: setting.recovery[0],
        shaped: setting.shaped,
        latency_ms: latency.as_secs_f64() * 1e3,
        bandwidth_mbit: bits / 1e6,
        wall_s: 0.0,
        cpu_s: None,
        owner_cpu_s: None,
        bytes_per_node: 0,
        sent_bytes: 0,
        rounds: 0,
        peak_mb: None,
        idle_mb: None,
        live_mb: 8.0 * cost.live_words as f64 / f64::from(1 << 20),
        check_s: None,
        input_bytes: 8 * cost.input_words,
        stream_bytes: 8 * cost.stream_words,
        result_bytes: 0,
        predicted_wall_s: cost.seconds(latency, bits),
        predicted_bytes_per_node: cost.sent_bytes,
        predicted_rounds: cost.rounds,
        load: None,
    }
}

/// Medians of what differs from run to run.
fn median(lines: &[&Line]) -> Line {
    let of = |field: fn(&Line) -> Option<f64>| middle(lines.iter().filter_map(|line| field(line)).collect());
    Line {
        run: None,
        median_of: Some(lines.len() as u32),
        wall_s: of(|line| Some(line.wall_s)).unwrap_or_default(),
        cpu_s: of(|line| line.cpu_s),
        owner_cpu_s: of(|line| line.owner_cpu_s),
        peak_mb: of(|line| line.peak_mb),
        check_s: of(|line| line.check_s),
        load: of(|line| line.load),
        ..lines[0].clone()
    }
}

/// The middle one, or the mean of the two in the middle.
pub fn middle(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let half = values.len().checked_sub(1)? / 2;
    Some((values[half] + values[values.len() - 1 - half]) / 2.0)
}

/// The most that any node added.
fn check_s(before: &[Option<f64>], after: &[Option<f64>]) -> Option<f64> {
    before
        .iter()
        .zip(after)
        .map(|(before, after)| Some((*after)? - (*before)?))
        .collect::<Option<Vec<_>>>()?
        .into_iter()
        .reduce(f64::max)
}

fn difference(from: Option<f64>, to: Option<f64>) -> Option<f64> {
    // The system counts in hundredths.
    Some(((to? - from?) * 100.0).round() / 100.0)
}

/// proc(5): the first number of `loadavg`.
fn load() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_the_median() {
        assert_eq!(middle(vec![]), None);
        assert_eq!(middle(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(middle(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
