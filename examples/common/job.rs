//! One job from masking to results, with what it took.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use beaverdam::cli::{self, BackendArgs};
use beaverdam::entropy::Entropy;
use beaverdam::keys::SecretKey;
use beaverdam::net::Limits;
use beaverdam::owner::{Progress, Request, Results, blocking, prepare, read};
use beaverdam::program::{Cost, Planning, Program};
use beaverdam::roster::Roster;

use crate::Fault;
use crate::agents::{Agents, Usage};

/// The owner of all inputs.
pub struct Owner {
    pub key: Arc<SecretKey>,
    seed: Option<u64>,
    jobs: u64,
}

impl Owner {
    /// A new one; from a known seed, with a warning, if there is one.
    pub fn new(seed: Option<u64>) -> Result<Self, Fault> {
        let key = match seed {
            None => SecretKey::generate()?,
            Some(seed) => {
                eprintln!("WARNING: INSECURE: all randomness of owner and nodes comes from the known seed {seed}");
                SecretKey::insecure_from_seed(seed, "owner")
            }
        };
        Ok(Self { key: Arc::new(key), seed, jobs: 0 })
    }

    /// Runs a program on the nodes and reads what they give back.
    pub fn run(
        &mut self,
        program: &Program,
        inputs: &BTreeMap<String, Vec<f64>>,
        at: (Roster, Planning, &Agents),
        note: &str,
    ) -> Result<Done, Fault> {
        let mut bar = cli::Bar::new(at.0);
        self.watched(program, inputs, at, note, &mut |progress| bar.show(progress))
    }

    /// The same; what the nodes report is shown by the caller.
    pub fn watched(
        &mut self,
        program: &Program,
        inputs: &BTreeMap<String, Vec<f64>>,
        (roster, planning, agents): (Roster, Planning, &Agents),
        note: &str,
        watch: &mut dyn FnMut(Progress),
    ) -> Result<Done, Fault> {
        let owner = &self.key;
        // A seed of its own for each job: nodes take no nonce twice.
        let entropy = self.seed.map_or_else(Entropy::system, |seed| {
            Entropy::insecure_from_seed(seed.wrapping_add(self.jobs.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        });
        self.jobs += 1;
        let at_first = agents.usage();
        let clock = Instant::now();
        let keys: Vec<_> = agents.nodes().iter().map(|n| n.key).collect();
        let expires = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs() + 3600;
        let readers = BTreeMap::new();
        let request = Request {
            program,
            roster,
            planning,
            nodes: &keys,
            spares: &[],
            inputs,
            readers: &readers,
            attempts: 1,
            expires,
            note,
        };
        let prepared = prepare(owner, &request, entropy)?;
        // The nodes begin to talk when the last one is ready; the dealing that
        // goes on from there counts as online.
        let (mut verified, mut ready) = (BTreeSet::new(), BTreeSet::new());
        let (mut given, mut begun) = (None, None);
        let mut show = |progress: Progress| {
            let (reached, slot, at) = match progress {
                Progress::Verified { slot } => (&mut verified, slot, &mut given),
                Progress::Stored { slot, .. } => (&mut ready, slot, &mut begun),
                progress => return watch(progress),
            };
            if reached.insert(slot) && reached.len() == usize::from(roster.nodes()) {
                *at = Some((clock.elapsed(), agents.usage()));
            }
            watch(progress);
        };
        blocking::submit(&prepared, owner, agents.nodes(), &Limits::default(), &mut show)?;
        let stored = (clock.elapsed(), agents.usage());
        let ticket = prepared.ticket();
        let concluded = blocking::wait(owner, &ticket, agents.nodes(), &Limits::default(), &mut show)?;
        let total = clock.elapsed();
        let at_end = agents.usage();
        let (begun, between) = begun.unwrap_or(stored);
        let (given, after_inputs) = given.unwrap_or((begun, between));
        let results = read(owner, &ticket, &concluded)?;
        let given_back = concluded.iter().map(|node| node.sealed.iter().map(|share| share.len() as u64).sum());
        Ok(Done {
            results,
            given_back: given_back.max().unwrap_or(0),
            cost: prepared.plan().cost(),
            offline: begun.as_secs_f64(),
            ahead: (begun - given).as_secs_f64(),
            online: (total - begun).as_secs_f64(),
            usage: [at_first, after_inputs, between, at_end],
        })
    }
}

/// A job that is done.
pub struct Done {
    pub results: Results,
    /// bytes of sealed results that a node gave to its readers, the most of all
    #[allow(dead_code, reason = "not every example tells it")]
    pub given_back: u64,
    /// what was predicted
    pub cost: Cost,
    /// seconds of masking and of giving the inputs to the nodes
    pub offline: f64,
    /// the last of these seconds, in which the nodes expand ahead what the first rounds draw
    #[allow(dead_code, reason = "not every example tells it by phase")]
    pub ahead: f64,
    /// seconds from the first message to the last
    pub online: f64,
    /// what the processes had used before the first phase and after each
    #[allow(dead_code, reason = "not every example tells it by phase")]
    pub usage: [Usage; 4],
}

impl Done {
    /// The most bytes that a node sent.
    pub fn bytes(&self) -> u64 {
        self.results.agreed.receipts().iter().map(|r| r.sent).max().unwrap_or(0)
    }
    /// The transcript that all nodes signed, in hex.
    pub fn transcript(&self) -> String {
        self.results.agreed.transcript().iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// What the nodes, which open it themselves, will compute on.
pub fn device(backend: &BackendArgs) -> Result<String, Fault> {
    let opened = backend.devices().open()?;
    if let Some(why) = opened.fell_back {
        println!("no GPU is used: {why}");
    }
    Ok(opened.device.to_string())
}

/// A measured number, where there is one.
pub fn shown(value: Option<f64>, unit: &str) -> String {
    value.map_or_else(|| "cannot be told on this system".to_owned(), |v| format!("{v:.1} {unit}"))
}
