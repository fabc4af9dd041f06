//! `move`: a running job goes on elsewhere.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;

use super::job::{counted, create, nodes};
use super::progress::Bar;
use super::{CliError, KeyArgs, PlanningArgs};
use crate::entropy::Entropy;
use crate::keys::hex;
use crate::net::Limits;
use crate::owner::{ClientError, Destination, Moving, OwnerError, Ticket, blocking};

/// Takes a running Shamir job to another roster, with other nodes, n or t, from
/// its nodes' last common checkpoint on: fetches their shares of what is left,
/// deals the rest anew to the other roster, and cancels the job at the old
/// nodes, which then erase what they hold.
#[derive(Args, Debug)]
pub(super) struct Move {
    /// The ticket of the running job
    #[arg(long, value_name = "FILE")]
    ticket: PathBuf,
    /// Keys and addresses of its nodes
    #[arg(long, value_name = "FILE")]
    roster: PathBuf,
    /// Keys and addresses of the nodes that go on (docs/roster.example.toml)
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Where to write the ticket of the rest, with which the result is fetched
    #[arg(long, value_name = "FILE")]
    new_ticket: PathBuf,
    #[command(flatten)]
    planning: PlanningArgs,
    #[command(flatten)]
    key: KeyArgs,
    /// Copies of the material that are dealt, for SPDZ, as in `submit`
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    attempts: u32,
    /// Seconds until the new nodes may drop the job
    #[arg(long, value_name = "SECS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    expires: u64,
    /// A line for the operators of the new nodes, which they can read
    #[arg(long, value_name = "TEXT", default_value = "")]
    note: String,
}

impl Move {
    pub(super) fn run(&self) -> Result<(), CliError> {
        if self.new_ticket.exists() {
            return Err(CliError::Exists { path: self.new_ticket.display().to_string(), flag: "--new-ticket" });
        }
        let ticket = Ticket::from_bytes(&std::fs::read(&self.ticket).map_err(CliError::file("read", &self.ticket))?)?;
        let (_, old) = nodes(&self.roster)?;
        let (roster, new) = nodes(&self.to)?;
        let (owner, limits) = (Arc::new(self.key.load()?), Limits::default());
        let (held, missing) = blocking::states(&owner, &ticket, &old, &limits)?;
        let moving = Moving::find(&owner, &ticket, &held).map_err(|error| match (error, missing.first()) {
            // Why there are too few.
            (OwnerError::Unmovable { reason }, Some(first)) => {
                OwnerError::Unmovable { reason: format!("{reason}; {first}") }
            }
            (error, _) => error,
        })?;
        drop(held);
        missing.iter().for_each(|error| println!("without {error}"));
        let inputs = blocking::data(&owner, &ticket, &old, &limits, moving.reads())?;
        let keys: Vec<_> = roster.nodes().iter().map(|node| node.key).collect();
        let spares: Vec<_> = roster.spares().iter().map(|node| node.key).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let to = Destination {
            roster: roster.roster(),
            planning: self.planning.planning(),
            nodes: &keys,
            spares: &spares,
            attempts: self.attempts,
            expires: now + self.expires,
            note: &self.note,
        };
        let moved = moving.prepare(&inputs, &to, Entropy::system())?;
        drop(inputs);
        for slot in &moved.blamed {
            println!("WRONG SHARES, corrected, came from {slot}");
        }
        create(&self.new_ticket, &moved.prepared.ticket().to_bytes(), "--new-ticket")?;
        let mut bar = Bar::new(roster.roster());
        let submitted = blocking::submit(&moved.prepared, &owner, &new, &limits, |p| bar.show(p));
        drop(bar);
        if let Err(error) = submitted {
            // Some of the new nodes may have everything, and go on if nobody ends them.
            let ended = blocking::cancel_each(&owner, &moved.prepared.ticket(), &new, &limits)?;
            let is_over = |ended: &Result<(), ClientError>| matches!(ended, Ok(()) | Err(ClientError::Refused { .. }));
            if ended.iter().all(|(_, ended)| is_over(ended)) {
                let _ = std::fs::remove_file(&self.new_ticket);
            } else {
                println!(
                    "not all new nodes could be told; ticket {} is kept, to cancel the rest there",
                    self.new_ticket.display()
                );
            }
            return Err(error.into());
        }
        let (done, of) = moving.done();
        let digest = hex(&moved.prepared.manifest().digest());
        println!("job {digest} is at all {} new nodes: it goes on behind iteration {done} of {of}", keys.len());
        if !spares.is_empty() {
            println!("and at {}, to be trusted like nodes", counted(spares.len(), "spare"));
        }
        println!("ticket {}", self.new_ticket.display());
        // The result is on its way whatever the old nodes say now.
        let mut silent = 0;
        for (slot, ended) in blocking::cancel_each(&owner, &ticket, &old, &limits)? {
            match ended {
                Ok(()) => println!("old {slot} says that it has ended the job and erased what it held"),
                Err(error) => {
                    silent += 1;
                    println!("old {error}");
                }
            }
        }
        if silent > 0 {
            println!(
                "{} may still hold its shares, or finish the job too: `beaverdam cancel` says it again, and ends with its time in any case",
                counted(silent, "old node")
            );
        }
        Ok(())
    }
}
