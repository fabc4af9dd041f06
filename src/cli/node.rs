//! `node`: the agent, configured by flags or by environment variables alone.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tracing_subscriber::EnvFilter;

use super::{BackendArgs, CliError, KeyArgs};
use crate::entropy::Entropy;
use crate::keys::{KeyError, PublicKey};
use crate::node::{Allow, Config, serve};
use crate::store::RedbStore;
use crate::{job, net};

/// Serves owners and the other nodes of their jobs on one HTTP port, with
/// /healthz, until it is interrupted.
#[derive(Args, Clone, Debug)]
pub struct NodeArgs {
    /// Address and port to serve on; port 0 takes a free one, which is printed
    #[arg(long, value_name = "ADDR", env = "BEAVERDAM_LISTEN", default_value = "0.0.0.0:7000")]
    listen: String,
    #[command(flatten)]
    key: KeyArgs,
    /// Public key of an owner whose jobs are served, or `any`; may be repeated
    /// (in the environment: separated by commas)
    #[arg(
        long,
        value_name = "KEY|any",
        env = "BEAVERDAM_ALLOW_OWNER",
        required = true,
        value_delimiter = ',',
        num_args = 1
    )]
    allow_owner: Vec<AllowOwner>,
    /// File that remembers which material is used up, with FILE.witness and FILE.jobs beside
    /// it. Never restore it from a copy, never give it to two nodes
    #[arg(long, value_name = "FILE", env = "BEAVERDAM_STORE", default_value = "beaverdam.store")]
    store: PathBuf,
    /// Seconds that an owner or another node may keep a job waiting; past them, a
    /// job goes on without nodes that it can do without
    #[arg(long, value_name = "SECS", env = "BEAVERDAM_DEADLINE", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    deadline: u64,
    /// Seconds that a job waits for a node that it cannot do without
    #[arg(long, value_name = "SECS", env = "BEAVERDAM_PATIENCE", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    patience: u64,
    /// Keep nothing by which a job goes on after this process has ended, nor what other
    /// nodes may have missed: less disk, a little less time
    #[arg(long, env = "BEAVERDAM_NO_RECOVERY", value_parser = clap::builder::FalseyValueParser::new())]
    no_recovery: bool,
    /// Seconds that a node may be away before a spare takes its slot over, in jobs that name spares
    #[arg(long, value_name = "SECS", env = "BEAVERDAM_REPLACE_AFTER", default_value_t = 180, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    replace_after: u64,
    /// Jobs at once; more are refused
    #[arg(long, value_name = "N", env = "BEAVERDAM_MAX_JOBS", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    max_jobs: u16,
    /// Megabytes of masked inputs that one job may bring
    #[arg(long, value_name = "MB", env = "BEAVERDAM_MAX_INPUT_MB", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..))]
    max_input_mb: u32,
    /// Megabytes of material that one job may bring
    #[arg(long, value_name = "MB", env = "BEAVERDAM_MAX_MATERIAL_MB", default_value_t = 131_072, value_parser = clap::value_parser!(u32).range(1..))]
    max_material_mb: u32,
    #[command(flatten)]
    backend: BackendArgs,
    #[command(flatten)]
    shape: ShapeArgs,
    /// What is logged on stderr: error, warn, info, debug, or a filter such as
    /// `warn,beaverdam=debug`
    #[arg(long, value_name = "LEVEL", env = "BEAVERDAM_LOG", default_value = "info")]
    log: String,
    /// no flag and no variable sets this
    #[arg(skip)]
    tamper: Option<net::Tamper>,
}

impl NodeArgs {
    /// Test equipment: makes the node lie.
    #[doc(hidden)]
    pub fn insecure_tamper_for_tests(&mut self, tamper: net::Tamper) {
        self.tamper = Some(tamper);
    }
}

/// A worse network than there is. For measuring on one machine, so hidden from
/// those who run a node.
#[derive(Args, Clone, Debug)]
struct ShapeArgs {
    /// Delay every message to another node by so many milliseconds
    #[arg(long, value_name = "MS", hide = true, value_parser = super::plan::number(0.0, 1e6))]
    shape_latency: Option<f64>,
    /// Send at most so many megabits per second to all other nodes together
    #[arg(long, value_name = "MBIT", hide = true, value_parser = super::plan::number(1e-3, 4e6))]
    shape_bandwidth: Option<f64>,
}

impl ShapeArgs {
    fn shape(&self) -> Option<Arc<net::Shape>> {
        if self.shape_latency.is_none() && self.shape_bandwidth.is_none() {
            return None;
        }
        let latency = Duration::from_secs_f64(self.shape_latency.unwrap_or(0.0) / 1e3);
        Some(Arc::new(net::Shape::new(latency, self.shape_bandwidth.map(|mbit| mbit * 1e6 / 8.0))))
    }
}

/// An owner to serve, or everybody.
#[derive(Clone, Copy, Debug)]
enum AllowOwner {
    Any,
    Key(PublicKey),
}

impl FromStr for AllowOwner {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, KeyError> {
        if text == "any" { Ok(Self::Any) } else { Ok(Self::Key(text.parse()?)) }
    }
}

/// Runs a node until `stop` completes or the process is told to end. The first
/// line on stdout is `listening on ADDR as KEY`, once it can be reached.
///
/// `entropy` is the operating system's for `beaverdam node`; a seed is for
/// tests alone and makes the node take jobs that are marked insecure.
///
/// # Errors
/// A key, store or address that cannot be used.
pub fn run_node(
    args: &NodeArgs,
    entropy: Entropy,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), CliError> {
    let filter =
        EnvFilter::try_new(&args.log).map_err(|e| CliError::Log { found: args.log.clone(), reason: e.to_string() })?;
    // Whoever runs two nodes in one process has set it already.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .try_init();
    let key = Arc::new(args.key.load()?);
    let public = key.public();
    let keys: BTreeSet<_> = args
        .allow_owner
        .iter()
        .filter_map(|a| match a {
            AllowOwner::Key(key) => Some(*key),
            AllowOwner::Any => None,
        })
        .collect();
    let allow = if keys.len() < args.allow_owner.len() && args.allow_owner.iter().any(|a| matches!(a, AllowOwner::Any))
    {
        eprintln!("WARNING: this node serves EVERY owner that can reach it, as --allow-owner any says");
        Allow::Any
    } else {
        Allow::Keys(keys)
    };
    if let Some(seed) = entropy.insecure_seed() {
        eprintln!(
            "WARNING: INSECURE: this node takes its randomness from the known seed {seed} and serves seeded jobs"
        );
    }
    if args.shape.shape().is_some() {
        eprintln!("WARNING: this node makes its network slower than it is, as --shape-* says: it is for measuring");
    }
    if args.tamper.is_some() {
        eprintln!("WARNING: INSECURE: this node may lie to the others: it is for tests");
    }
    let words = |mb: u32| u64::from(mb) * (1_000_000 / 8);
    let config = Config {
        key,
        allow,
        store: Arc::new(RedbStore::open(&args.store)?),
        limits: job::Limits {
            input_words: words(args.max_input_mb),
            stream_words: words(args.max_material_mb),
            insecure_seeded: entropy.insecure_seed().is_some(),
            // Seeded jobs carry a fixed, far date, to be reproducible.
            lifetime: if entropy.insecure_seed().is_some() { u64::MAX } else { job::Limits::default().lifetime },
            ..job::Limits::default()
        },
        deadline: Duration::from_secs(args.deadline),
        patience: Duration::from_secs(args.patience),
        replace_after: Duration::from_secs(args.replace_after),
        entropy,
        devices: Arc::new(args.backend.devices()),
        net: net::Limits { shape: args.shape.shape(), tamper: args.tamper.clone(), ..net::Limits::default() },
        max_jobs: args.max_jobs.into(),
        recovery: !args.no_recovery,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(CliError::Runtime)?;
    runtime.block_on(async {
        let unusable = |source| CliError::Listen { address: args.listen.clone(), source };
        let listener = tokio::net::TcpListener::bind(&args.listen).await.map_err(unusable)?;
        let unusable = |source| CliError::Listen { address: args.listen.clone(), source };
        let address = listener.local_addr().map_err(unusable)?;
        // Jobs find the device open.
        let opened = config.devices.open()?;
        if let Some(why) = opened.fell_back {
            tracing::warn!("no GPU is used: {why}");
        }
        tracing::info!("computing on {}", opened.device);
        let mut out = std::io::stdout();
        // Nobody has to read it.
        let _ = writeln!(out, "listening on {address} as {public}").and_then(|()| out.flush());
        let shutdown = async {
            tokio::select! {
                () = stop => {}
                () = told_to_end() => {}
            }
        };
        Ok(serve(listener, config, shutdown).await?)
    })
}

/// Ctrl-C, or the signal with which containers are stopped.
async fn told_to_end() {
    #[cfg(unix)]
    {
        let terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
        if let Ok(mut terminated) = terminated {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminated.recv() => {}
            }
            return;
        }
    }
    // Without a handler the signal ends the process, as it would by default.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
