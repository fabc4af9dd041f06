//! The roster file: which nodes compute, under which scheme, and where they
//! are reached. TOML, written by people; `docs/roster.example.toml` shows all of it.
//!
//! Addresses are for dialling only. They are not part of the manifest: a node
//! is its key, wherever it runs.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::keys::{KeyError, PublicKey};
use crate::roster::{Roster, RosterError, Scheme};

/// Far more than a roster of 32 nodes needs.
const MAX_BYTES: usize = 64 * 1024;
const MAX_ADDRESS: usize = 256;

/// A checked roster file: nodes in slot order, spares, no key or address twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RosterFile {
    roster: Roster,
    nodes: Vec<NodeEntry>,
    spares: Vec<NodeEntry>,
}

/// One node or spare of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEntry {
    /// the node's public key
    pub key: PublicKey,
    /// `host:port` or `ws://host:port/prefix`
    pub address: String,
}

/// Why a roster file was refused.
#[derive(Debug, thiserror::Error)]
pub enum RosterFileError {
    /// Too long to be one.
    #[error("the roster file has {found} bytes, at most {MAX_BYTES} are read: is it the right file?")]
    TooLarge {
        /// bytes found
        found: usize,
    },
    /// Not TOML, or a field that is unknown, missing or of the wrong type.
    #[error("line {line} of the roster file: {reason}")]
    Syntax {
        /// counted from 1
        line: usize,
        /// what is wrong
        reason: String,
    },
    /// Scheme, number of nodes and threshold do not go together.
    #[error("the roster file names {nodes} nodes: {source}")]
    Roster {
        /// nodes found
        nodes: usize,
        /// why
        source: RosterError,
    },
    /// Shamir has no default threshold.
    #[error(
        "the roster file has no `threshold`: say how many of the {nodes} Shamir nodes may be corrupt, such as `threshold = 1`"
    )]
    NoThreshold {
        /// nodes found
        nodes: usize,
    },
    /// SPDZ's threshold is n − 1.
    #[error(
        "the roster file says threshold = {found}, but SPDZ with {nodes} nodes always stands {expected}: remove that line"
    )]
    SpdzThreshold {
        /// found in the file
        found: u8,
        /// nodes found
        nodes: usize,
        /// n − 1
        expected: usize,
    },
    /// A key that cannot be read.
    #[error("the key of {entry} in the roster file: {source}")]
    Key {
        /// the entry, such as `[[node]] number 2`
        entry: String,
        /// why
        source: KeyError,
    },
    /// An address that cannot be dialled.
    #[error("the address {address:?} of {entry} in the roster file: {reason}")]
    Address {
        /// the entry
        entry: String,
        /// its beginning
        address: String,
        /// what is wrong
        reason: &'static str,
    },
    /// Two entries with one key or one address.
    #[error("{first} and {second} in the roster file have the same {what}: each needs its own")]
    Repeated {
        /// key, address or slot
        what: &'static str,
        /// one entry
        first: String,
        /// the other
        second: String,
    },
    /// Slots must be 1..=n, given for all entries or for none.
    #[error(
        "[[node]] number {node} in the roster file has slot {found}, expected slots 1 to {nodes}, on all nodes or on none"
    )]
    Slot {
        /// the entry, counted from 1
        node: usize,
        /// what it says
        found: String,
        /// nodes found
        nodes: usize,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    scheme: Scheme,
    threshold: Option<u8>,
    #[serde(default)]
    node: Vec<Entry>,
    #[serde(default)]
    spare: Vec<SpareEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    slot: Option<u8>,
    key: String,
    address: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SpareEntry {
    key: String,
    address: String,
}

impl RosterFile {
    /// Reads the text of a roster file.
    pub fn parse(text: &str) -> Result<Self, RosterFileError> {
        if text.len() > MAX_BYTES {
            return Err(RosterFileError::TooLarge { found: text.len() });
        }
        let file: File = toml::from_str(text).map_err(|e| syntax(text, &e))?;
        let roster = roster(&file)?;
        let order = order(&file.node)?;
        let (mut keys, mut addresses) = (BTreeMap::new(), BTreeMap::new());
        let mut checked = |name: String, key: &str, address: &str| {
            let entry = || name.clone();
            let key: PublicKey = key.parse().map_err(|source| RosterFileError::Key { entry: entry(), source })?;
            check_address(address).map_err(|reason| RosterFileError::Address {
                entry: entry(),
                address: begin(address),
                reason,
            })?;
            once("key", keys.insert(*key.identity(), entry()), entry())?;
            let plain = address.to_ascii_lowercase();
            once("address", addresses.insert(plain.trim_end_matches('/').to_owned(), entry()), entry())?;
            Ok(NodeEntry { key, address: address.to_owned() })
        };
        let nodes = (1..).zip(&file.node).map(|(number, entry)| checked(node(number), &entry.key, &entry.address));
        let nodes: Vec<_> = nodes.collect::<Result<_, _>>()?;
        let spare = |number: usize| format!("[[spare]] number {number}");
        let spares = (1..).zip(&file.spare).map(|(number, entry)| checked(spare(number), &entry.key, &entry.address));
        let spares = spares.collect::<Result<_, _>>()?;
        let nodes = order.into_iter().map(|entry| nodes[entry].clone()).collect();
        Ok(Self { roster, nodes, spares })
    }

    /// Scheme, n and t.
    pub fn roster(&self) -> Roster {
        self.roster
    }

    /// The nodes in slot order.
    pub fn nodes(&self) -> &[NodeEntry] {
        &self.nodes
    }

    /// The agents that may take over the slots of crashed nodes.
    pub fn spares(&self) -> &[NodeEntry] {
        &self.spares
    }
}

fn node(number: usize) -> String {
    format!("[[node]] number {number}")
}

fn roster(file: &File) -> Result<Roster, RosterFileError> {
    let nodes = file.node.len();
    let n = u8::try_from(nodes).unwrap_or(u8::MAX);
    let of = |source| RosterFileError::Roster { nodes, source };
    match (file.scheme, file.threshold) {
        (Scheme::Shamir, None) => Err(RosterFileError::NoThreshold { nodes }),
        (Scheme::Shamir, Some(t)) => Roster::shamir(n, t).map_err(of),
        (Scheme::Spdz, threshold) => {
            let roster = Roster::spdz(n).map_err(of)?;
            match threshold {
                Some(found) if found != roster.threshold() => {
                    let expected = usize::from(roster.threshold());
                    Err(RosterFileError::SpdzThreshold { found, nodes, expected })
                }
                _ => Ok(roster),
            }
        }
    }
}

/// For each slot the index of its entry: as numbered, or in the file's order.
fn order(entries: &[Entry]) -> Result<Vec<usize>, RosterFileError> {
    let nodes = entries.len();
    if entries.iter().all(|e| e.slot.is_none()) {
        return Ok((0..nodes).collect());
    }
    let mut by_slot = BTreeMap::new();
    for (index, entry) in entries.iter().enumerate() {
        let node = index + 1;
        match entry.slot {
            Some(slot) if (1..=nodes).contains(&usize::from(slot)) => {
                once("slot", by_slot.insert(slot, index).map(|first| self::node(first + 1)), self::node(node))?;
            }
            other => {
                let found = other.map_or("missing".to_owned(), |slot| slot.to_string());
                return Err(RosterFileError::Slot { node, found, nodes });
            }
        }
    }
    Ok(by_slot.into_values().collect())
}

fn once(what: &'static str, first: Option<String>, second: String) -> Result<(), RosterFileError> {
    first.map_or(Ok(()), |first| Err(RosterFileError::Repeated { what, first, second }))
}

/// Whether something can be dialled there is for the network to find out.
fn check_address(address: &str) -> Result<(), &'static str> {
    let rest = address.strip_prefix("ws://");
    if address.len() > MAX_ADDRESS {
        return Err("expected at most 256 bytes");
    }
    if address.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("expected no spaces or control characters");
    }
    match rest {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => Err("expected a host after ws://"),
        Some(_) => Ok(()),
        None if address.contains("://") => {
            Err("expected host:port or ws://host:port/prefix: links bring their own TLS")
        }
        None => match address.rsplit_once(':') {
            Some((host, port))
                if !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0) && !host.contains('/') =>
            {
                Ok(())
            }
            _ => Err("expected host:port, such as 10.0.0.7:7000, or ws://host:port/prefix"),
        },
    }
}

fn begin(address: &str) -> String {
    address.chars().take(60).collect()
}

/// The parser's message on one line, with the line it is about.
fn syntax(text: &str, error: &toml::de::Error) -> RosterFileError {
    let start = error.span().map_or(0, |span| span.start);
    let line = 1 + text.bytes().take(start).filter(|b| *b == b'\n').count();
    let reason = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
    RosterFileError::Syntax { line, reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::SecretKey;
    use crate::roster::Slot;
    use proptest::prelude::*;

    fn key(i: u64) -> PublicKey {
        SecretKey::insecure_from_seed(i, "roster example").public()
    }
    fn file(head: &str, nodes: impl IntoIterator<Item = u64>) -> String {
        let node = |i| format!("[[node]]\nkey = \"{}\"\naddress = \"10.0.0.{i}:7000\"\n", key(i));
        std::iter::once(format!("{head}\n")).chain(nodes.into_iter().map(node)).collect()
    }
    fn refused(text: &str) -> String {
        let message = RosterFile::parse(text).unwrap_err().to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    }
    const SHAMIR: &str = "scheme = \"shamir\"\nthreshold = 1";

    #[test]
    fn the_example_in_the_docs_is_a_roster() {
        let example = RosterFile::parse(include_str!("../../docs/roster.example.toml")).unwrap();
        assert_eq!(example.roster(), Roster::shamir(4, 1).unwrap());
        let keys: Vec<_> = example.nodes().iter().map(|n| n.key).collect();
        assert_eq!(keys, (1..=4).map(key).collect::<Vec<_>>());
    }

    #[test]
    fn nodes_stand_in_slot_order() {
        let plain = RosterFile::parse(&file(SHAMIR, 1..=4)).unwrap();
        assert_eq!(plain.nodes()[Slot(3).index()], NodeEntry { key: key(3), address: "10.0.0.3:7000".into() });
        let mut numbered = file(SHAMIR, 1..=4);
        for slot in [4, 3, 2, 1] {
            numbered = numbered.replacen("[[node]]\nkey", &format!("[[node]]\nslot = {slot}\nkey"), 1);
        }
        let keys: Vec<_> = RosterFile::parse(&numbered).unwrap().nodes().iter().map(|n| n.key).collect();
        assert_eq!(keys, [4, 3, 2, 1].map(key));
    }

    #[test]
    fn spdz_needs_no_threshold() {
        assert_eq!(RosterFile::parse(&file("scheme = \"spdz\"", 1..=3)).unwrap().roster(), Roster::spdz(3).unwrap());
        assert!(RosterFile::parse(&file("scheme = \"spdz\"\nthreshold = 2", 1..=3)).is_ok());
        assert!(refused(&file("scheme = \"spdz\"\nthreshold = 1", 1..=3)).contains("always stands 2"));
        assert!(refused(&file("scheme = \"shamir\"", 1..=3)).contains("no `threshold`"));
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        assert!(refused(&file(SHAMIR, [])).contains("names 0 nodes"));
        assert!(refused(&file(SHAMIR, 1..=2)).contains("n ≥ 2t + 1"));
        assert!(refused(&file(SHAMIR, 1..=33)).contains("more than the 32"));
        assert!(refused(&file(SHAMIR, 1..=300)).contains("names 300 nodes"));
        assert!(refused(&file("scheme = \"spdz\"", 1..=1)).contains("at least 2"));
        assert!(refused(&file("scheme = \"shamir\"\nthreshold = 300", 1..=4)).starts_with("line 2"));
    }

    #[test]
    fn repeated_keys_and_addresses_are_refused() {
        let twice = refused(&file(SHAMIR, [1, 2, 3, 2]));
        assert_eq!(
            twice,
            "[[node]] number 2 and [[node]] number 4 in the roster file have the same key: each needs its own"
        );
        let one_place = file(SHAMIR, 1..=4).replace("10.0.0.3:7000", "10.0.0.1:7000");
        assert!(
            refused(&one_place).contains("number 1 and [[node]] number 3 in the roster file have the same address")
        );
        let spelt =
            file(SHAMIR, 1..=4).replace("10.0.0.1:7000", "ws://a.example").replace("10.0.0.3:7000", "ws://A.example/");
        assert!(refused(&spelt).contains("number 1 and [[node]] number 3 in the roster file have the same address"));
    }

    #[test]
    fn spares_stand_beside_the_nodes() {
        let spare = |i| format!("[[spare]]\nkey = \"{}\"\naddress = \"10.0.0.{i}:7000\"\n", key(i));
        let text = file(SHAMIR, 1..=4) + &spare(5);
        let read = RosterFile::parse(&text).unwrap();
        assert_eq!((read.nodes().len(), read.roster()), (4, Roster::shamir(4, 1).unwrap()));
        assert_eq!(read.spares(), [NodeEntry { key: key(5), address: "10.0.0.5:7000".into() }]);
        let twice = refused(&(file(SHAMIR, 1..=4) + &spare(3)));
        assert!(twice.starts_with("[[node]] number 3 and [[spare]] number 1 in the roster file"), "{twice}");
        assert!(refused(&(text + "slot = 5\n")).contains("unknown field `slot`"));
    }

    #[test]
    fn slots_are_all_or_none_and_once() {
        let give = |slots: &[&str]| {
            let mut text = file(SHAMIR, 1..=4);
            for slot in slots {
                text = text.replacen("[[node]]\nkey", &format!("[[node]]\n{slot}\nkey"), 1);
            }
            refused(&text)
        };
        assert!(give(&["slot = 1"]).contains("number 2 in the roster file has slot missing"));
        assert!(give(&["slot = 1", "slot = 1", "slot = 2", "slot = 3"]).contains("number 1 and [[node]] number 2"));
        assert!(give(&["slot = 1", "slot = 5", "slot = 2", "slot = 3"]).contains("has slot 5"));
        assert!(give(&["slot = 0", "slot = 1", "slot = 2", "slot = 3"]).contains("has slot 0"));
    }

    #[test]
    fn a_mistyped_key_is_named() {
        let good = key(2).to_string();
        let digit = if good.as_bytes()[20] == b'0' { "1" } else { "0" };
        let bad = format!("{}{digit}{}", &good[..20], &good[21..]);
        assert!(refused(&file(SHAMIR, 1..=4).replace(&good, &bad)).starts_with("the key of [[node]] number 2"));
    }

    #[test]
    fn addresses_are_host_and_port_or_websocket() {
        for good in ["[::1]:7000", "node.example:1", "ws://a.example/path", "ws://10.0.0.1:80"] {
            assert!(RosterFile::parse(&file(SHAMIR, 1..=4).replace("10.0.0.2:7000", good)).is_ok(), "{good}");
        }
        for bad in ["", "host", "host:", ":7000", "host:0", "host:70000", "ws://", "a b:7000", "https://a:7000"] {
            assert!(refused(&file(SHAMIR, 1..=4).replace("10.0.0.2:7000", bad)).contains("[[node]] number 2"), "{bad}");
        }
    }

    #[test]
    fn unknown_fields_and_broken_files_name_their_line() {
        assert!(
            refused(&file("schema = \"shamir\"", 1..=4)).contains("line 1 of the roster file: unknown field `schema`")
        );
        assert!(refused("scheme = \"shamir\"\nthreshold = 1\n[[node]]\nkey = 3\naddress = \"a:1\"").contains("line 4"));
        assert!(refused("scheme = \"shamir\"\nthreshold =").contains("line 2"));
        assert!(refused("scheme = \"yao\"").contains("unknown variant `yao`"));
        assert!(refused(&"#".repeat(MAX_BYTES + 1)).contains("65537 bytes"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,200}", at in 0usize..1000) {
            let _ = RosterFile::parse(&text);
            let mut mixed = file(SHAMIR, 1..=4);
            let at = (0..=at % mixed.len()).rev().find(|i| mixed.is_char_boundary(*i)).unwrap_or(0);
            mixed.insert_str(at, &text);
            let _ = RosterFile::parse(&mixed);
        }
    }
}
