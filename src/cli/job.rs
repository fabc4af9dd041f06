//! `submit`, `resume`, `fetch`, `verify`, `cancel` and `jobs`: the owner and the readers.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;

use super::progress::Bar;
use super::table::{Table, to_csv};
use super::{CliError, KeyArgs, PlanningArgs};
use crate::entropy::Entropy;
use crate::job::{CheckedManifest, MAX_ATTEMPTS, RosterFile};
use crate::keys::{PublicKey, hex};
use crate::net::Limits;
use crate::owner::{JobState, Node, Request, Results, Ticket, blocking, check_continues, prepare, read, stopped};
use crate::program::plan::Plan;
use crate::program::{Program, Signature};
use crate::roster::{Scheme, Slot};

/// Masks the inputs, gives the job to all nodes of a roster, and writes the
/// ticket with which its result is fetched. The inputs leave this machine only
/// as secret shares.
#[derive(Args, Debug)]
pub(super) struct Submit {
    /// The program, as `Program::save` writes it
    #[arg(long, value_name = "FILE")]
    program: PathBuf,
    /// Keys and addresses of the nodes (docs/roster.example.toml)
    #[arg(long, value_name = "FILE")]
    roster: PathBuf,
    #[command(flatten)]
    planning: PlanningArgs,
    #[command(flatten)]
    key: KeyArgs,
    /// A CSV of numbers for each input of the program, such as x=data.csv; may
    /// be repeated
    #[arg(long = "input", value_name = "NAME=FILE")]
    inputs: Vec<Named<PathBuf>>,
    /// The public key of a reader that the program names; may be repeated. A
    /// reader who also gives inputs needs none: that is you
    #[arg(long = "reader", value_name = "NAME=KEY")]
    readers: Vec<Named<PublicKey>>,
    /// Where to write the ticket: nothing secret, but without it the result
    /// cannot be fetched
    #[arg(long, value_name = "FILE", default_value = "job.ticket")]
    ticket: PathBuf,
    /// Copies of the material that are dealt, for SPDZ: how often the job may begin, since a process that is
    /// killed ends an attempt, and the next goes on from a checkpoint with material of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_ATTEMPTS)))]
    attempts: u32,
    /// Seconds until the nodes may drop the job
    #[arg(long, value_name = "SECS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    expires: u64,
    /// A line for the operators of the nodes, which they can read
    #[arg(long, value_name = "TEXT", default_value = "")]
    note: String,
    /// Submit even if a dry run in the clear, on this machine, cannot be done
    /// or finds that a range declared by the program does not hold
    #[arg(long)]
    no_dry_run: bool,
    /// Wait for the result and write it, as `fetch` does
    #[arg(long)]
    wait: bool,
    /// With --wait: the directory for the outputs
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
}

/// Fetches the result of a job, checks receipts and shares of all nodes, and
/// writes each output that this key may read as a CSV.
#[derive(Args, Debug)]
pub(super) struct Fetch {
    #[command(flatten)]
    job: JobArgs,
    /// The directory for the outputs; existing files are never overwritten
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Wait until the job is over
    #[arg(long)]
    wait: bool,
}

/// Fetches and checks receipts and shares of all nodes, and says what they
/// attest. Writes nothing.
#[derive(Args, Debug)]
pub(super) struct Verify {
    #[command(flatten)]
    job: JobArgs,
}

/// Ends a running job at all nodes. Its material is never used again.
#[derive(Args, Debug)]
pub(super) struct Cancel {
    #[command(flatten)]
    job: JobArgs,
}

/// Deals more attempts to a running SPDZ job that was submitted with --attempts 2 or more, as when it has lost a
/// process in its last one and waits for that. A run that was interrupted is run again: it deals the same.
#[derive(Args, Debug)]
pub(super) struct Resume {
    #[command(flatten)]
    job: JobArgs,
    /// Copies of the material that are dealt, beside those that all nodes hold
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_ATTEMPTS)))]
    attempts: u32,
}

/// Lists the jobs whose result this key may have, at each node of a roster
/// file: how far they are, or why they failed.
#[derive(Args, Debug)]
pub(super) struct Jobs {
    /// Keys and addresses of the nodes (docs/roster.example.toml)
    #[arg(long, value_name = "FILE")]
    roster: PathBuf,
    #[command(flatten)]
    key: KeyArgs,
}

/// Which job, where, and as whom.
#[derive(Args, Debug)]
struct JobArgs {
    /// The ticket that `submit` wrote
    #[arg(long, value_name = "FILE")]
    ticket: PathBuf,
    /// Keys and addresses of the nodes (docs/roster.example.toml)
    #[arg(long, value_name = "FILE")]
    roster: PathBuf,
    #[command(flatten)]
    key: KeyArgs,
    /// Refuse the ticket if it is not for this program
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Refuse the ticket if its job is not what was left of this one's when it
    /// was moved
    #[arg(long, value_name = "TICKET")]
    continues: Option<PathBuf>,
}

/// NAME=VALUE.
#[derive(Clone, Debug)]
struct Named<T> {
    name: String,
    value: T,
}

impl<T: FromStr> FromStr for Named<T>
where
    T::Err: std::fmt::Display,
{
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
        let value = value.parse().map_err(|e: T::Err| e.to_string())?;
        Ok(Self { name: name.to_owned(), value })
    }
}

impl Submit {
    pub(super) fn run(&self) -> Result<(), CliError> {
        let program = Program::load(&self.program)?;
        let (roster, nodes) = nodes(&self.roster)?;
        let owner = Arc::new(self.key.load()?);
        let inputs = self.values(&program)?;
        if !self.no_dry_run {
            must_hold(&program, &inputs)?;
        }
        let readers = named(&self.readers, "--reader")?;
        let names: BTreeSet<_> = program.outputs().iter().map(|o| o.reader.as_str()).collect();
        if let Some(unknown) = readers.keys().find(|name| !names.contains(name.as_str())) {
            return Err(CliError::Unknown { what: "reader", name: unknown.clone(), known: join(names.into_iter()) });
        }
        let keys: Vec<_> = roster.nodes().iter().map(|n| n.key).collect();
        let spares: Vec<_> = roster.spares().iter().map(|n| n.key).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let request = Request {
            program: &program,
            roster: roster.roster(),
            planning: self.planning.planning(),
            nodes: &keys,
            spares: &spares,
            inputs: &inputs,
            readers: &readers,
            attempts: self.attempts,
            expires: now + self.expires,
            note: &self.note,
        };
        let prepared = prepare(&owner, &request, Entropy::system())?;
        drop(inputs);
        let ticket = prepared.ticket();
        if self.wait && self.out.exists() && !self.out.is_dir() {
            return Err(CliError::Exists { path: self.out.display().to_string(), flag: "--out" });
        }
        // First, so that no job runs whose result nobody could fetch.
        create(&self.ticket, &ticket.to_bytes(), "--ticket")?;
        let mut bar = Bar::new(roster.roster());
        let submitted = blocking::submit(&prepared, &owner, &nodes, &Limits::default(), |p| bar.show(p));
        drop(bar);
        if let Err(error) = submitted {
            // Only the file that this run created; the job has ended everywhere.
            let _ = std::fs::remove_file(&self.ticket);
            return Err(error.into());
        }
        println!("job {} is at all {} nodes", hex(&prepared.manifest().digest()), keys.len());
        if !spares.is_empty() {
            println!("and at {}, to be trusted like nodes", counted(spares.len(), "spare"));
        }
        if self.attempts > 1 {
            println!("in up to {} attempts, one more whenever a process is lost", self.attempts);
        }
        println!("ticket {}", self.ticket.display());
        if !self.wait {
            return Ok(());
        }
        let mut bar = Bar::new(roster.roster());
        let concluded = blocking::wait(&owner, &ticket, &nodes, &Limits::default(), |p| bar.show(p))?;
        drop(bar);
        let (manifest, plan) = ticket.check()?;
        let results = read(&owner, &ticket, &concluded)?;
        write(&self.out, &plan, &results)?;
        attest(&manifest, &plan, &results);
        Ok(())
    }

    /// The inputs' values by name; every input exactly once.
    fn values(&self, program: &Program) -> Result<BTreeMap<String, Vec<f64>>, CliError> {
        let files = named(&self.inputs, "--input")?;
        let mut values = BTreeMap::new();
        for (name, _, signature) in program.inputs() {
            let missing = || CliError::MissingInput { name: name.into(), signature: signature.to_string() };
            let table = Table::read(files.get(name).ok_or_else(missing)?)?;
            values.insert(name.to_owned(), table.values(signature)?);
        }
        match files.into_keys().find(|name| !values.contains_key(name)) {
            Some(name) => Err(CliError::Unknown { what: "input", name, known: join(program.inputs().map(|i| i.0)) }),
            None => Ok(values),
        }
    }
}

impl Fetch {
    pub(super) fn run(&self) -> Result<(), CliError> {
        let (manifest, plan, results) = self.job.results(self.wait)?;
        write(&self.out, &plan, &results)?;
        attest(&manifest, &plan, &results);
        Ok(())
    }
}

impl Verify {
    pub(super) fn run(&self) -> Result<(), CliError> {
        let (manifest, plan, results) = self.job.results(false)?;
        let all = plan.outputs.len();
        println!("outputs: {} of {all} are for this key; their shares fit together", results.outputs.len());
        attest(&manifest, &plan, &results);
        Ok(())
    }
}

impl Cancel {
    pub(super) fn run(&self) -> Result<(), CliError> {
        let (ticket, manifest, _) = self.job.ticket()?;
        let (_, nodes) = nodes(&self.job.roster)?;
        blocking::cancel(&self.job.key.load()?, &ticket, &nodes, &Limits::default())?;
        println!("job {} is cancelled at all {} nodes", hex(&manifest.digest()), manifest.manifest().nodes.len());
        Ok(())
    }
}

impl Resume {
    pub(super) fn run(&self) -> Result<(), CliError> {
        let (ticket, manifest, plan) = self.job.ticket()?;
        let (_, nodes) = nodes(&self.job.roster)?;
        let owner = Arc::new(self.job.key.load()?);
        let mut bar = Bar::new(plan.roster);
        let of = blocking::resume(&owner, &ticket, &nodes, &Limits::default(), self.attempts, |p| bar.show(p))?;
        drop(bar);
        println!(
            "job {} has {of} attempts at all {} nodes, and goes on in the next one when all of them are back",
            hex(&manifest.digest()),
            manifest.manifest().nodes.len()
        );
        Ok(())
    }
}

impl Jobs {
    pub(super) fn run(&self) -> Result<(), CliError> {
        let (_, nodes) = nodes(&self.roster)?;
        let key = self.key.load()?;
        let mut reached = Err(None);
        for (slot, node) in (1..).map(Slot).zip(&nodes) {
            // A node that is down hides nothing of the others.
            match blocking::jobs(&key, slot, node, &Limits::default()) {
                Ok(jobs) => {
                    reached = Ok(());
                    if jobs.is_empty() {
                        println!("{slot} at {}: no jobs of this key", node.address);
                    }
                    for job in jobs {
                        println!("{slot} at {}: job {} {}", node.address, hex(&job.manifest), words(&job.state));
                    }
                }
                Err(error) => {
                    println!("{error}");
                    reached = reached.map_err(|first| first.or(Some(error)));
                }
            }
        }
        match reached {
            Err(Some(error)) => Err(error.into()),
            _ => Ok(()),
        }
    }
}

fn words(state: &JobState) -> String {
    match state {
        JobState::Running { segments, segments_of, rounds_of: 0, .. } => {
            format!("is being prepared: segment {segments} of {segments_of} is stored")
        }
        JobState::Running { round, rounds_of, .. } => format!("runs: round {round} of {rounds_of} is over"),
        JobState::Done => "is done: fetch its result".to_owned(),
        JobState::Failed(reason) => format!("failed: {reason}"),
        JobState::Stopped { attempt, of } => stopped(*attempt, *of),
        JobState::Spare => "waits as a spare, with all that it needs".to_owned(),
    }
}

impl JobArgs {
    fn ticket(&self) -> Result<(Ticket, CheckedManifest, Plan), CliError> {
        let bytes = std::fs::read(&self.ticket).map_err(CliError::file("read", &self.ticket))?;
        let ticket = Ticket::from_bytes(&bytes)?;
        let (manifest, plan) = ticket.check()?;
        if let Some(path) = &self.program {
            let (found, expected) = (manifest.manifest().program, Program::load(path)?.digest());
            if found != expected {
                let (found, expected) = (hex(&found[..8]), hex(&expected[..8]));
                return Err(CliError::OtherProgram { found, path: path.display().to_string(), expected });
            }
        }
        if let Some(path) = &self.continues {
            let bytes = std::fs::read(path).map_err(CliError::file("read", path))?;
            check_continues(&Ticket::from_bytes(&bytes)?, &ticket)?;
        }
        Ok((ticket, manifest, plan))
    }

    fn results(&self, wait: bool) -> Result<(CheckedManifest, Plan, Results), CliError> {
        let (ticket, manifest, plan) = self.ticket()?;
        let (_, nodes) = nodes(&self.roster)?;
        let key = self.key.load()?;
        let concluded = if wait {
            let mut bar = Bar::new(plan.roster);
            blocking::wait(&key, &ticket, &nodes, &Limits::default(), |p| bar.show(p))?
        } else {
            blocking::fetch(&key, &ticket, &nodes, &Limits::default())?
        };
        let results = read(&key, &ticket, &concluded)?;
        Ok((manifest, plan, results))
    }
}

pub(super) fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// The file, and where its nodes and spares are reached, in this order.
pub(super) fn nodes(path: &Path) -> Result<(RosterFile, Vec<Node>), CliError> {
    let text = std::fs::read_to_string(path).map_err(CliError::file("read", path))?;
    let path = path.display().to_string();
    let file = RosterFile::parse(&text).map_err(|source| CliError::RosterFile { path, source })?;
    let nodes =
        file.nodes().iter().chain(file.spares()).map(|n| Node { key: n.key, address: n.address.clone() }).collect();
    Ok((file, nodes))
}

fn named<T: Clone>(given: &[Named<T>], flag: &'static str) -> Result<BTreeMap<String, T>, CliError> {
    let mut map = BTreeMap::new();
    for Named { name, value } in given {
        if map.insert(name.clone(), value.clone()).is_some() {
            return Err(CliError::Twice { flag, name: name.clone() });
        }
    }
    Ok(map)
}

fn join<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// Declared ranges must hold on the data, or the result would be wrong.
fn must_hold(program: &Program, inputs: &BTreeMap<String, Vec<f64>>) -> Result<(), CliError> {
    let run = program.dry_run(inputs).map_err(CliError::DryRun)?;
    match run.declarations.into_iter().find(|d| !d.holds()) {
        Some(seen) => Err(CliError::Declared { seen }),
        None => Ok(()),
    }
}

/// A new file that only its owner can read, at the path that a flag chose.
pub(super) fn create(path: &Path, bytes: &[u8], flag: &'static str) -> Result<(), CliError> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(path).and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    written.map_err(unless_it_exists(path, flag))
}

fn unless_it_exists(path: &Path, flag: &'static str) -> impl FnOnce(std::io::Error) -> CliError {
    move |e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => CliError::Exists { path: path.display().to_string(), flag },
        _ => CliError::file("create", path)(e),
    }
}

fn write(directory: &Path, plan: &Plan, results: &Results) -> Result<(), CliError> {
    std::fs::create_dir_all(directory).map_err(unless_it_exists(directory, "--out"))?;
    for (number, output) in plan.outputs.iter().enumerate() {
        let Some(values) = results.outputs.get(&output.name) else { continue };
        let clash = plan.outputs.iter().enumerate().any(|(i, o)| i != number && plain(&o.name) == plain(&output.name));
        let name = if clash { format!("{}-{number}.csv", plain(&output.name)) } else { plain(&output.name) + ".csv" };
        let path = directory.join(name);
        let signature = Signature { ty: output.ty, shape: output.shape.clone() };
        create(&path, to_csv(&signature, values).as_bytes(), "--out")?;
        println!("{} {} {}", output.name, output.shape, path.display());
    }
    Ok(())
}

/// A name from a program as a file name that stays in its directory.
fn plain(name: &str) -> String {
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | ' ');
    let name: String = name.chars().map(|c| if fits(c) { c } else { '_' }).take(64).collect();
    if name.is_empty() { "_".into() } else { name }
}

/// Says what the receipts are worth.
fn attest(manifest: &CheckedManifest, plan: &Plan, results: &Results) {
    let (roster, agreed) = (plan.roster, &results.agreed);
    println!("job {}", hex(&manifest.digest()));
    println!("program {}", hex(&manifest.manifest().program));
    if let Some(continues) = &manifest.manifest().continues {
        let earlier = hex(&continues.manifest);
        println!("it goes on from job {earlier}: for the values with which it began there is the owner's word alone");
    }
    println!("transcript {}", hex(&agreed.transcript()));
    println!("all {} nodes signed it: {} rounds, {} checks passed", roster.nodes(), agreed.rounds(), agreed.checks());
    let sent = agreed.receipts().iter().map(|r| r.sent).max().unwrap_or(0);
    println!("bytes sent by a node, at most: {sent}");
    if !results.blamed.is_empty() {
        println!(
            "WRONG SHARES, corrected, came from {}",
            join(results.blamed.iter().map(|s| s.to_string()).collect::<Vec<_>>().iter().map(String::as_str))
        );
    }
    if manifest.manifest().insecure_seeded {
        println!("INSECURE: this job's randomness came from a seed that others may know");
    }
    let assumption = match roster.scheme() {
        Scheme::Shamir => format!("if at most {} of the {} nodes were corrupt", roster.threshold(), roster.nodes()),
        Scheme::Spdz => format!("if at least one of the {} nodes was honest", roster.nodes()),
    };
    let ranges = if agreed.conditional() { ", and if the ranges that the program declares held" } else { "" };
    println!("this is a threshold attestation, not a proof: the result is correct {assumption}{ranges}");
}
