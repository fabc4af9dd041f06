//! The node agents, each a process of its own that runs what `beaverdam node`
//! runs: this program starts itself again with a hidden first argument.
//!
//! The nodes end with this process on every path: dropping [`Agents`] kills
//! them, and each ends by itself when its standard input, which only this
//! process holds, is closed. A node can be killed and started again, and one can
//! be made to lie.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use beaverdam::cli::{self, BackendArgs, NodeArgs};
use beaverdam::engine::frame::{Body, Frame};
use beaverdam::entropy::Entropy;
use beaverdam::field::Fp61;
use beaverdam::keys::{PublicKey, SecretKey};
use beaverdam::net::Tamper;
use beaverdam::owner::Node;
use beaverdam::roster::{Roster, Slot};
use clap::Parser;

use crate::Fault;

/// The hidden first argument.
pub const HIDDEN: &str = "run-as-node";

/// Arguments of a node process.
#[derive(Parser)]
struct Hidden {
    #[command(flatten)]
    node: NodeArgs,
    /// takes all randomness from a known seed; ordinary nodes have no such flag
    #[arg(long)]
    insecure_seed: Option<u64>,
    /// from when it is told to, it sends wrong shares; ordinary nodes have no such flag
    #[arg(long)]
    insecure_liar: bool,
}

/// What makes a node that may lie do so, on its standard input.
const LIE: &str = "lie";

/// Runs a node until the process that started it is gone.
pub fn be_one() -> Result<(), Fault> {
    let Some(hidden) = cli::parse::<Hidden>(std::env::args_os().skip(1))? else {
        return Ok(());
    };
    let Hidden { mut node, insecure_seed, insecure_liar } = hidden;
    let entropy = insecure_seed.map_or_else(Entropy::system, Entropy::insecure_from_seed);
    let lying = Arc::new(AtomicBool::new(false));
    if insecure_liar {
        let lying = Arc::clone(&lying);
        node.insecure_tamper_for_tests(Tamper::insecure_for_tests(move |_, message| {
            if lying.load(Ordering::Relaxed) {
                falsify(message);
            }
        }));
    }
    let (gone, stop) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        // It ends with the parent.
        for line in std::io::stdin().lines().map_while(Result::ok) {
            lying.fetch_or(line == LIE, Ordering::Relaxed);
        }
        drop(gone);
    });
    let stop = async move { drop(stop.await) };
    Ok(cli::run_node(&node, entropy, stop)?)
}

/// Adds 1 to the first share of a message that opens something: behind one byte,
/// a frame.
fn falsify(message: &mut Vec<u8>) {
    if let Some((0, bytes)) = message.split_first()
        && let Ok(mut frame) = Frame::decode(bytes)
        && let Body::Words(shares) = &mut frame.body
        && let Some(share) = Arc::make_mut(shares).first_mut()
    {
        *share += Fp61::ONE;
        message.truncate(1);
        message.extend(frame.encode());
    }
}

/// Running nodes in slot order. Dropping them kills them.
pub struct Agents {
    processes: Mutex<Vec<Process>>,
    nodes: Vec<Node>,
    /// keys and stores
    _files: tempfile::TempDir,
}

/// A node's process, and how another takes its place.
struct Process {
    child: Child,
    label: String,
    /// without the address
    args: Vec<OsString>,
    threads: Option<usize>,
}

impl Process {
    fn spawn(label: &str, listen: &str, args: &[OsString], threads: Option<usize>) -> Result<Child, Fault> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([HIDDEN, "--listen", listen]).args(args);
        // A key of the user's own environment is none of the nodes'.
        command.env_remove("BEAVERDAM_KEY_SEED").env_remove("BEAVERDAM_KEY");
        if let Some(threads) = threads {
            command.env("RAYON_NUM_THREADS", threads.to_string());
        }
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        child.map_err(|e| format!("cannot start {label}: {e}").into())
    }

    /// Where it can be reached, once it can be.
    fn address(&mut self) -> Result<String, Fault> {
        let mut line = String::new();
        let out = self.child.stdout.take().ok_or("a node has no output")?;
        BufReader::new(out).read_line(&mut line)?;
        let address = line.strip_prefix("listening on ").and_then(|rest| rest.split_whitespace().next());
        Ok(address.ok_or("a node ended before it could be reached; it says why above")?.to_owned())
    }
}

/// What the processes have used. `None` where the system does not tell.
#[derive(Clone, Copy)]
pub struct Usage {
    /// user and system time of all nodes
    pub nodes_cpu: Option<f64>,
    /// user and system time of this process, the owner's
    pub owner_cpu: Option<f64>,
    /// the greatest resident size that any node had
    pub peak_mb: Option<f64>,
}

impl Usage {
    /// User and system time of the nodes and of this process.
    pub fn cpu_seconds(&self) -> Option<f64> {
        Some(self.nodes_cpu? + self.owner_cpu?)
    }
}

/// What nodes are started with beside their keys.
#[derive(Clone, Default)]
pub struct Extra {
    /// flags of `beaverdam node`
    pub flags: Vec<String>,
    /// threads that each node computes with; as many as cores if not given
    pub threads: Option<usize>,
    /// the node that lies when it is told to
    pub liar: Option<Slot>,
}

impl Agents {
    /// Starts a node for each slot on a free port of the loopback interface.
    pub fn start(
        roster: Roster,
        owner: &PublicKey,
        seed: Option<u64>,
        backend: &BackendArgs,
        extra: &Extra,
    ) -> Result<Self, Fault> {
        let files = tempfile::tempdir()?;
        let mut agents = Self { processes: Mutex::default(), nodes: Vec::new(), _files: files };
        let mut keys = Vec::new();
        for slot in roster.slots() {
            let label = format!("node {}", slot.0);
            let key = seed.map_or_else(SecretKey::generate, |seed| Ok(SecretKey::insecure_from_seed(seed, &label)))?;
            let path = agents._files.path().join(format!("{label}.key"));
            key.save(&path, None)?;
            let store = agents._files.path().join(format!("{label}.store"));
            let mut args: Vec<OsString> = ["--log", "warn", "--allow-owner"].map(OsString::from).into();
            args.extend([owner.to_string().into(), "--key".into(), path.into(), "--store".into(), store.into()]);
            args.extend(backend.flags().into_iter().chain(extra.flags.clone()).map(OsString::from));
            if let Some(seed) = seed {
                args.extend(["--insecure-seed".into(), seed.to_string().into()]);
            }
            if extra.liar == Some(slot) {
                args.push("--insecure-liar".into());
            }
            let child = Process::spawn(&label, "127.0.0.1:0", &args, extra.threads)?;
            agents.processes().push(Process { child, label, args, threads: extra.threads });
            keys.push(key.public());
        }
        for (index, key) in keys.into_iter().enumerate() {
            let address = agents.processes()[index].address()?;
            agents.nodes.push(Node { key, address });
        }
        Ok(agents)
    }

    fn processes(&self) -> MutexGuard<'_, Vec<Process>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keys and addresses.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Process ids.
    pub fn ids(&self) -> Vec<u32> {
        self.processes().iter().map(|process| process.child.id()).collect()
    }

    /// Seconds that each node has spent in checks, as its health page tells.
    #[allow(dead_code, reason = "not every example tells it")]
    pub fn check_seconds(&self) -> Vec<Option<f64>> {
        self.nodes
            .iter()
            .map(|node| health(&node.address))
            .map(|page| {
                let (_, rest) = page.as_deref()?.split_once("\"check_seconds\":")?;
                rest.split([',', '}']).next()?.trim().parse().ok()
            })
            .collect()
    }

    /// What has been used up to now.
    pub fn usage(&self) -> Usage {
        let ids = self.ids();
        let peaks: Option<Vec<f64>> = ids.iter().map(|id| peak_mb(&id.to_string())).collect();
        Usage {
            nodes_cpu: ids.iter().map(|id| cpu_seconds(&id.to_string())).sum(),
            owner_cpu: own_cpu_seconds(),
            peak_mb: peaks.and_then(|peaks| peaks.into_iter().reduce(f64::max)),
        }
    }
}

#[allow(dead_code, reason = "in most examples all nodes stay and are honest")]
impl Agents {
    /// Kills a node: it cannot even close its files.
    pub fn kill(&self, slot: Slot) -> Result<(), Fault> {
        let mut processes = self.processes();
        let Process { child, label, .. } = &mut processes[slot.index()];
        child.kill().and_then(|()| child.wait()).map_err(|e| format!("cannot kill {label}: {e}"))?;
        Ok(())
    }

    /// Starts a node that was killed again: with its key, at its address, on its store.
    pub fn start_again(&self, slot: Slot) -> Result<(), Fault> {
        let mut processes = self.processes();
        let process = &mut processes[slot.index()];
        let address = &self.nodes[slot.index()].address;
        process.child = Process::spawn(&process.label, address, &process.args, process.threads)?;
        process.address()?;
        Ok(())
    }

    /// Makes the node lie that was started for it.
    pub fn lie(&self, slot: Slot) -> Result<(), Fault> {
        let mut processes = self.processes();
        let input = processes[slot.index()].child.stdin.as_mut().ok_or("a node has no input")?;
        Ok(writeln!(input, "{LIE}").and_then(|()| input.flush())?)
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        for process in self.processes().iter_mut() {
            // It may have ended already.
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}

/// A node's health page, with the header of the answer.
fn health(address: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n").ok()?;
    let mut page = String::new();
    stream.read_to_string(&mut page).ok()?;
    Some(page)
}

/// What this process has used.
pub fn own_cpu_seconds() -> Option<f64> {
    cpu_seconds("self")
}

/// proc(5): fields 14 and 15 of `stat`, in ticks of 1/100 s on every Linux.
pub fn cpu_seconds(process: &str) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The second field is a name in brackets that may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |i: usize| fields.get(i)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / 100.0)
}

/// proc(5): `VmHWM`, in kB.
pub fn peak_mb(process: &str) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? / 1024.0)
}
