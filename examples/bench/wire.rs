//! The wire alone: processes that exchange bytes all-to-all over the same
//! links as nodes do, TLS in WebSocket on the loopback interface, and compute
//! nothing. What a job's online phase can be compared with.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use beaverdam::keys::SecretKey;
use beaverdam::net::mesh::LinkMesh;
use beaverdam::net::tls::Identity;
use beaverdam::net::{Limits, Link, Transport, client, server};
use beaverdam::roster::{Roster, Slot};

use crate::Fault;
use crate::agents::cpu_seconds;

/// The hidden first argument; slot and number of nodes follow.
pub const HIDDEN: &str = "run-as-wire";

/// Keys that everybody knows: nothing is sent that anybody may not see.
fn key(slot: Slot) -> SecretKey {
    SecretKey::insecure_from_seed(0, &format!("wire {}", slot.0))
}

/// One end, until its standard input is closed. It says where it listens, is
/// told where all do, says that it is linked, and then exchanges as many bytes
/// as each line says, and says when it has.
pub fn be_one() -> Result<(), Fault> {
    let number = |i| std::env::args().nth(i).and_then(|arg| arg.parse().ok()).ok_or("expected a slot and a number");
    let (own, nodes): (u8, u8) = (number(2)?, number(3)?);
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(Slot(own), nodes))
}

async fn run(own: Slot, nodes: u8) -> Result<(), Fault> {
    let (limits, identity) = (Limits::default(), Arc::new(Identity::new(&key(own))?));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let (links, mut linked) = tokio::sync::mpsc::unbounded_channel::<Link>();
    say(&listener.local_addr()?.to_string())?;
    {
        let (identity, limits, links) = (Arc::clone(&identity), limits.clone(), links.clone());
        tokio::spawn(async move {
            let on_link = move |link| {
                let _ = links.send(link);
                std::future::pending::<()>()
            };
            let never = std::future::pending();
            server::serve(listener, &identity, limits, |_| true, on_link, || "{}", never).await
        });
    }
    let addresses = told()?;
    for (slot, address) in (1..=nodes).map(Slot).zip(addresses.split_whitespace()).filter(|(slot, _)| *slot > own) {
        let expected = *key(slot).public().identity();
        let until = tokio::time::Instant::now() + Duration::from_secs(30);
        let link = client::connect_retry(address, &identity, expected, &limits, until).await?;
        links.send(link)?;
    }
    let mut mesh = LinkMesh::new(&limits);
    for _ in 1..nodes {
        let mut link = linked.recv().await.ok_or("no more links")?;
        let slot = (1..=nodes).map(Slot).find(|slot| *key(*slot).public().identity() == link.peer());
        link.set_limit(u32::MAX as usize);
        mesh.attach(slot.ok_or("a link with nobody of these")?, link);
    }
    say("linked")?;
    let peers: Vec<Slot> = mesh.slots().collect();
    while let Ok(text) = told() {
        let frame = bytes::Bytes::from(vec![own.0; text.trim().parse()?]);
        say("ready")?;
        told()?;
        for peer in &peers {
            mesh.send(*peer, frame.clone()).await?;
        }
        for _ in &peers {
            mesh.recv().await.1?;
        }
        say("done")?;
    }
    Ok(())
}

fn say(text: &str) -> Result<(), Fault> {
    let mut out = std::io::stdout();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// The next line of standard input.
fn told() -> Result<String, Fault> {
    line(&mut std::io::stdin().lock())
}

fn line(input: &mut impl BufRead) -> Result<String, Fault> {
    let mut text = String::new();
    match input.read_line(&mut text)? {
        0 => Err("the other side is gone".into()),
        _ => Ok(text),
    }
}

/// Linked processes. Dropping them kills them.
pub struct Wire(Vec<(Child, ChildStdin, BufReader<ChildStdout>)>);

impl Wire {
    /// Starts one process a slot and links them.
    pub fn start(roster: Roster) -> Result<Self, Fault> {
        let mut wire = Self(Vec::new());
        for slot in roster.slots() {
            let mut command = Command::new(std::env::current_exe()?);
            command.args([HIDDEN, &slot.0.to_string(), &roster.nodes().to_string()]);
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
            let (input, output) = (child.stdin.take().ok_or("no input")?, child.stdout.take().ok_or("no output")?);
            wire.0.push((child, input, BufReader::new(output)));
        }
        let addresses = wire.hear()?.iter().map(|address| address.trim()).collect::<Vec<_>>().join(" ");
        wire.tell(&addresses)?;
        wire.hear()?;
        Ok(wire)
    }

    /// Each sends so many bytes to each other; seconds until all have all, and
    /// seconds of CPU of all processes.
    pub fn exchange(&mut self, to_each: usize) -> Result<(f64, Option<f64>), Fault> {
        self.tell(&to_each.to_string())?;
        self.hear()?;
        let (clock, before) = (Instant::now(), self.cpu());
        self.tell("go")?;
        self.hear()?;
        Ok((clock.elapsed().as_secs_f64(), self.cpu().zip(before).map(|(after, before)| after - before)))
    }

    fn cpu(&self) -> Option<f64> {
        self.0.iter().map(|(child, ..)| cpu_seconds(&child.id().to_string())).sum()
    }

    fn tell(&mut self, text: &str) -> Result<(), Fault> {
        self.0.iter_mut().try_for_each(|(_, input, _)| Ok(writeln!(input, "{text}")?))
    }

    fn hear(&mut self) -> Result<Vec<String>, Fault> {
        self.0.iter_mut().map(|(.., output)| line(output)).collect()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for (child, ..) in &mut self.0 {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
