//! The node agents, each a process of its own that runs what `beaverdam node`
//! runs: this program starts itself again with a hidden first argument.
//!
//! The nodes end with this process on every path: dropping [`Agents`] kills
//! them, and each ends by itself when its standard input, which only this
//! process holds, is closed.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use beaverdam::cli::{self, BackendArgs, NodeArgs};
use beaverdam::entropy::Entropy;
use beaverdam::keys::{PublicKey, SecretKey};
use beaverdam::owner::Node;
use beaverdam::roster::Roster;
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
}

/// Runs a node until the process that started it is gone.
pub fn be_one() -> Result<(), Fault> {
    let Some(Hidden { node, insecure_seed }) = cli::parse::<Hidden>(std::env::args_os().skip(1))? else {
        return Ok(());
    };
    let entropy = insecure_seed.map_or_else(Entropy::system, Entropy::insecure_from_seed);
    let (gone, stop) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        // Nothing is ever written there; it ends with the parent.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        drop(gone);
    });
    let stop = async move { drop(stop.await) };
    Ok(cli::run_node(&node, entropy, stop)?)
}

/// Running nodes in slot order. Dropping them kills them.
pub struct Agents {
    children: Vec<Child>,
    nodes: Vec<Node>,
    /// keys and stores
    _files: tempfile::TempDir,
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
        let mut agents = Self { children: Vec::new(), nodes: Vec::new(), _files: files };
        let mut keys = Vec::new();
        for slot in roster.slots() {
            let label = format!("node {}", slot.0);
            let key = seed.map_or_else(SecretKey::generate, |seed| Ok(SecretKey::insecure_from_seed(seed, &label)))?;
            let path = agents._files.path().join(format!("{label}.key"));
            key.save(&path, None)?;
            let store = agents._files.path().join(format!("{label}.store"));
            let mut args: Vec<OsString> =
                [HIDDEN, "--listen", "127.0.0.1:0", "--log", "warn", "--allow-owner"].map(OsString::from).into();
            args.extend([owner.to_string().into(), "--key".into(), path.into(), "--store".into(), store.into()]);
            args.extend(backend.flags().into_iter().chain(extra.flags.clone()).map(OsString::from));
            if let Some(seed) = seed {
                args.extend(["--insecure-seed".into(), seed.to_string().into()]);
            }
            let mut command = Command::new(std::env::current_exe()?);
            // A key of the user's own environment is none of the nodes'.
            command.args(args).env_remove("BEAVERDAM_KEY_SEED").env_remove("BEAVERDAM_KEY");
            if let Some(threads) = extra.threads {
                command.env("RAYON_NUM_THREADS", threads.to_string());
            }
            let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
            agents.children.push(child.map_err(|e| format!("cannot start {label}: {e}"))?);
            keys.push(key.public());
        }
        for (child, key) in agents.children.iter_mut().zip(keys) {
            let mut line = String::new();
            let out = child.stdout.take().ok_or("a node has no output")?;
            BufReader::new(out).read_line(&mut line)?;
            let address = line.strip_prefix("listening on ").and_then(|rest| rest.split_whitespace().next());
            let address = address.ok_or("a node ended before it could be reached; it says why above")?.to_owned();
            agents.nodes.push(Node { key, address });
        }
        Ok(agents)
    }

    /// Keys and addresses.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Process ids.
    pub fn ids(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
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

impl Drop for Agents {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
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
