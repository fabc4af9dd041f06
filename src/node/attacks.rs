//! Owners and peers that do not keep to the rules, by hand-made frames over
//! real links.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use super::wire::{Peer, ToNode, ToOwner};
use super::{Allow, Config, serve};
use crate::backend::{Choice, Devices};
use crate::entropy::Entropy;
use crate::job;
use crate::keys::SecretKey;
use crate::net::link::Link;
use crate::net::tls::Identity;
use crate::net::{self, client};
use crate::owner::{Prepared, Request, prepare};
use crate::program::{Builder, Type};
use crate::roster::{Roster, Slot};
use crate::store::{JobState, MemoryStore, Store};

struct Cluster {
    owner: Arc<SecretKey>,
    keys: Vec<crate::keys::PublicKey>,
    addresses: Vec<String>,
    stores: Vec<Arc<MemoryStore>>,
}

async fn cluster(n: u8, deadline: Duration) -> Cluster {
    let owner = Arc::new(SecretKey::generate().unwrap());
    let mut cluster = Cluster { keys: vec![], addresses: vec![], stores: vec![], owner };
    for _ in 0..n {
        let key = Arc::new(SecretKey::generate().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let store = Arc::new(MemoryStore::new());
        cluster.keys.push(key.public());
        cluster.addresses.push(listener.local_addr().unwrap().to_string());
        cluster.stores.push(Arc::clone(&store));
        let config = Config {
            key,
            allow: Allow::Keys(BTreeSet::from([cluster.owner.public()])),
            store,
            limits: job::Limits::default(),
            deadline,
            patience: deadline,
            replace_after: deadline,
            entropy: Entropy::system(),
            devices: Arc::new(Devices::new(Choice::Cpu, None)),
            net: net::Limits::default(),
            max_jobs: 1,
            recovery: true,
        };
        tokio::spawn(serve(listener, config, std::future::pending()));
    }
    cluster
}

impl Cluster {
    fn job(&self, roster: Roster) -> Prepared {
        self.job_of(roster, 1)
    }

    fn job_of(&self, roster: Roster, attempts: u32) -> Prepared {
        let b = Builder::new();
        let x = b.input("x", "alice", Type::fixed(-9.0..=9.0), [2]);
        b.output("y", "alice", &(&x * &x));
        let program = b.finish().unwrap();
        let inputs = BTreeMap::from([("x".to_owned(), vec![1.0, 2.0])]);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let (nodes, readers) = (&self.keys[..], &BTreeMap::new());
        let request = Request {
            program: &program,
            roster,
            planning: Default::default(),
            nodes,
            spares: &[],
            inputs: &inputs,
            readers,
            attempts,
            expires: now + 600,
            note: "",
        };
        prepare(&self.owner, &request, Entropy::system()).unwrap()
    }

    async fn link(&self, key: &SecretKey, slot: Slot) -> Link {
        let (address, expected) = (&self.addresses[slot.index()], *self.keys[slot.index()].identity());
        client::connect(address, &Identity::new(key).unwrap(), expected, &net::Limits::default()).await.unwrap()
    }

    async fn submit(&self, job: &Prepared, slot: Slot, manifest: Option<Vec<u8>>) -> Link {
        let mut assignment = job.assignment(slot);
        assignment.manifest = manifest.unwrap_or(assignment.manifest);
        let mut link = self.link(&self.owner, slot).await;
        let assignment = assignment.to_bytes();
        say(&mut link, &ToNode::Submit { assignment: &assignment, peers: self.addresses.clone() }).await;
        link
    }
}

async fn say(link: &mut Link, message: &ToNode<'_>) {
    link.send(&message.encode()).await.unwrap();
    link.flush().await.unwrap();
}

async fn answer(link: &mut Link) -> ToOwner {
    ToOwner::decode(&link.recv().await.unwrap()).unwrap()
}

/// The reason with which a node ends the job of this link.
async fn failure(link: &mut Link) -> String {
    loop {
        match answer(link).await {
            ToOwner::Failed(reason) => return reason,
            ToOwner::Concluded(_) | ToOwner::Round { round: 1.., .. } => panic!("the job went on"),
            _ => {}
        }
    }
}

async fn reason_in_peer_link(link: &mut Link) -> String {
    match Peer::decode(&link.recv().await.unwrap()) {
        Some(Peer::Abort(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_shown_another_manifest_ends_the_job_before_the_first_opening() {
    let roster = Roster::shamir(3, 1).unwrap();
    let cluster = cluster(3, Duration::from_secs(2)).await;
    let job = cluster.job(roster);
    let mut other = job.manifest().manifest().clone();
    other.note = "something else".to_owned();
    let other = other.sign(&cluster.owner).unwrap();
    let mut links = Vec::new();
    let shown = job::SignedManifest::verify(&other.to_bytes(), 0, &job::Limits::unlimited()).unwrap();
    for slot in roster.slots() {
        let equivocated = slot == Slot(3);
        let mut link = cluster.submit(&job, slot, equivocated.then(|| other.to_bytes())).await;
        assert_eq!(answer(&mut link).await, ToOwner::Accepted);
        for (number, bytes) in (0..).zip(job.inputs()) {
            say(&mut link, &ToNode::Input { number, offset: 0, bytes }).await;
        }
        for (index, (header, bytes)) in (0..).zip(job.stream().unwrap()) {
            let other = shown.stream().sign(&cluster.owner, 0, index, &bytes).unwrap();
            let header = if equivocated { other } else { header }.to_bytes();
            say(&mut link, &ToNode::Segment { header: &header, bytes: &bytes }).await;
        }
        links.push(link);
    }
    let nonce = job.manifest().manifest().nonce;
    for store in &cluster.stores {
        while store.state(nonce).unwrap() == Some(JobState::Running) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let Some(JobState::Failed(reason)) = store.state(nonce).unwrap() else { panic!("no failure") };
        // The nodes do not even link up.
        assert!(reason.contains("was not submitted to this node") || reason.contains("no link with"), "{reason}");
        assert_eq!(store.record(nonce).unwrap(), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_of_strangers_do_not_reach_a_job() {
    let roster = Roster::shamir(3, 1).unwrap();
    let cluster = cluster(3, Duration::from_secs(20)).await;
    let job = cluster.job(roster);
    let manifest = job.manifest().digest();
    let stranger = SecretKey::generate().unwrap();
    // Before the job is there: the link waits, and is refused once it is.
    let mut early = cluster.link(&stranger, Slot(2)).await;
    say(&mut early, &ToNode::Peer { manifest }).await;
    let mut owner = cluster.submit(&job, Slot(2), None).await;
    assert_eq!(answer(&mut owner).await, ToOwner::Accepted);
    assert!(reason_in_peer_link(&mut early).await.contains("no business"));
    let mut late = cluster.link(&stranger, Slot(2)).await;
    say(&mut late, &ToNode::Peer { manifest }).await;
    assert!(reason_in_peer_link(&mut late).await.contains("no business"));
    // A second job is over the limit.
    let second = cluster.job(roster);
    let ToOwner::Refused(reason) = answer(&mut cluster.submit(&second, Slot(2), None).await).await else { panic!() };
    assert!(reason.contains("its limit"), "{reason}");
    // The owner leaves: the job ends, and its peers are told that it is over.
    drop(owner);
    let mut gone = cluster.link(&stranger, Slot(2)).await;
    let nonce = job.manifest().manifest().nonce;
    while matches!(cluster.stores[1].state(nonce).unwrap(), Some(JobState::Running)) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let Some(JobState::Failed(reason)) = cluster.stores[1].state(nonce).unwrap() else { panic!() };
    assert!(reason.contains("the owner left"), "{reason}");
    say(&mut gone, &ToNode::Peer { manifest }).await;
    let reason = reason_in_peer_link(&mut gone).await;
    assert!(reason.contains("over here") || reason.contains("no business"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_out_of_place_ends_the_job_with_a_reason() {
    let roster = Roster::spdz(2).unwrap();
    let attack = async |send: &[ToNode<'_>], expected: &str| {
        let cluster = cluster(2, Duration::from_secs(20)).await;
        let job = cluster.job(roster);
        let mut link = cluster.submit(&job, Slot(1), None).await;
        assert_eq!(answer(&mut link).await, ToOwner::Accepted);
        for message in send {
            say(&mut link, message).await;
        }
        let reason = failure(&mut link).await;
        assert!(reason.contains(expected), "{reason}");
    };
    attack(&[ToNode::Input { number: 1, offset: 0, bytes: &[0; 8] }], "expected 1 to").await;
    attack(&[ToNode::Input { number: 0, offset: 8, bytes: &[0; 8] }], "expected 1 to").await;
    attack(&[ToNode::Input { number: 0, offset: 0, bytes: &[] }], "expected 1 to").await;
    attack(&[ToNode::Input { number: 0, offset: 0, bytes: &[0; 40] }], "expected 1 to").await;
    // Whole, but not what was signed.
    attack(&[ToNode::Input { number: 0, offset: 0, bytes: &[0; 32] }], "root").await;
    attack(&[ToNode::Segment { header: &[0; 9], bytes: &[0; 9] }], "next input or segment").await;
    attack(&[ToNode::Cancel { manifest: [0; 32] }], "next input or segment").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_cannot_send_much_and_garbage_is_answered() {
    let cluster = cluster(2, Duration::from_secs(20)).await;
    let stranger = SecretKey::generate().unwrap();
    let mut link = cluster.link(&stranger, Slot(1)).await;
    let long = vec![1; 80 << 10];
    // The node may close before it has taken all of it.
    let _ = link.send(&long).await;
    let _ = link.flush().await;
    assert!(link.recv().await.is_err());
    let mut link = cluster.link(&stranger, Slot(1)).await;
    link.send(&[0xff; 40]).await.unwrap();
    link.flush().await.unwrap();
    assert!(matches!(answer(&mut link).await, ToOwner::Refused(_)));
    // An assignment that another key has signed.
    let mut thief = cluster.link(&cluster.owner, Slot(1)).await;
    let others = self::cluster(2, Duration::from_secs(20)).await;
    let stolen = others.job(Roster::spdz(2).unwrap()).assignment(Slot(1)).to_bytes();
    say(&mut thief, &ToNode::Submit { assignment: &stolen, peers: cluster.addresses.clone() }).await;
    let ToOwner::Refused(reason) = answer(&mut thief).await else { panic!() };
    assert!(reason.contains("is signed by"), "{reason}");
}

/// What a node says to somebody who would deal more attempts to a job.
async fn extend(cluster: &Cluster, key: &SecretKey, manifest: [u8; 32]) -> (Link, ToOwner) {
    let mut link = cluster.link(key, Slot(1)).await;
    say(&mut link, &ToNode::Extend { manifest }).await;
    let said = answer(&mut link).await;
    (link, said)
}

fn why(said: ToOwner) -> String {
    match said {
        ToOwner::Refused(reason) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_attempts_are_taken_from_the_owner_alone_and_cost_the_job_nothing() {
    // The second node never gets the job, so the first one waits.
    let cluster = cluster(2, Duration::from_secs(60)).await;
    let job = cluster.job_of(Roster::spdz(2).unwrap(), 2);
    let manifest = job.manifest().digest();
    let mut owner = cluster.submit(&job, Slot(1), None).await;
    assert_eq!(answer(&mut owner).await, ToOwner::Accepted);
    assert!(why(extend(&cluster, &cluster.owner, manifest).await.1).contains("not all of the job is here"));
    for (number, bytes) in (0..).zip(job.inputs()) {
        say(&mut owner, &ToNode::Input { number, offset: 0, bytes }).await;
    }
    for (header, bytes) in job.stream().unwrap() {
        say(&mut owner, &ToNode::Segment { header: &header.to_bytes(), bytes: &bytes }).await;
    }
    while !matches!(answer(&mut owner).await, ToOwner::Stored { segments, of } if segments == of) {}

    let stranger = SecretKey::generate().unwrap();
    assert!(why(extend(&cluster, &stranger, manifest).await.1).contains("no running job"));
    assert!(why(extend(&cluster, &cluster.owner, [7; 32]).await.1).contains("no running job"));
    let statement = job.dealing().extension(3).unwrap().to_bytes();
    let first = ToNode::Extension { from: 2, statement: &statement };
    let mut link = cluster.link(&cluster.owner, Slot(1)).await;
    say(&mut link, &first).await;
    assert!(why(answer(&mut link).await).contains("before a job was submitted"));

    let (mut one, said) = extend(&cluster, &cluster.owner, manifest).await;
    assert_eq!(said, ToOwner::Holds { attempts: 2 });
    assert!(why(extend(&cluster, &cluster.owner, manifest).await.1).contains("on another link"));
    let mut forged = statement.clone();
    *forged.last_mut().unwrap() ^= 1;
    say(&mut one, &ToNode::Extension { from: 2, statement: &forged }).await;
    assert!(why(answer(&mut one).await).contains("not signed by the job's owner"));

    // A run that ends in the middle.
    let frames = || job.dealing().stream_of(2).unwrap();
    let (mut cut, _) = extend(&cluster, &cluster.owner, manifest).await;
    say(&mut cut, &first).await;
    drop(cut);
    let mut link = loop {
        match extend(&cluster, &cluster.owner, manifest).await {
            (link, ToOwner::Holds { attempts: 2 }) => break link,
            (_, said) => assert!(why(said).contains("on another link")),
        }
    };
    say(&mut link, &first).await;
    for (header, bytes) in frames() {
        say(&mut link, &ToNode::Segment { header: &header.to_bytes(), bytes: &bytes }).await;
    }
    while !matches!(answer(&mut link).await, ToOwner::Stored { segments, of } if segments == of) {}
    drop(link);
    loop {
        match extend(&cluster, &cluster.owner, manifest).await.1 {
            ToOwner::Holds { attempts } => break assert_eq!(attempts, 3),
            said => assert!(why(said).contains("on another link")),
        }
    }
    assert_eq!(cluster.stores[0].state(job.manifest().manifest().nonce).unwrap(), Some(JobState::Running));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_of_which_nothing_is_kept_is_not_extended() {
    let cluster = cluster(2, Duration::from_secs(60)).await;
    let job = cluster.job(Roster::spdz(2).unwrap());
    let mut owner = cluster.submit(&job, Slot(1), None).await;
    assert_eq!(answer(&mut owner).await, ToOwner::Accepted);
    let reason = why(extend(&cluster, &cluster.owner, job.manifest().digest()).await.1);
    assert!(reason.contains("keeps nothing") && reason.contains("--attempts 2"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_is_told_that_all_is_stored_when_no_power_loss_can_undo_it() {
    let cluster = cluster(5, Duration::from_secs(20)).await;
    let job = cluster.job(Roster::shamir(5, 1).unwrap());
    // The others have no job yet.
    let mut link = cluster.submit(&job, Slot(1), None).await;
    for (number, bytes) in (0..).zip(job.inputs()) {
        say(&mut link, &ToNode::Input { number, offset: 0, bytes }).await;
    }
    for (header, bytes) in job.stream().unwrap() {
        say(&mut link, &ToNode::Segment { header: &header.to_bytes(), bytes: &bytes }).await;
    }
    loop {
        match answer(&mut link).await {
            ToOwner::Stored { segments, of } if segments == of => break,
            ToOwner::Failed(reason) => panic!("{reason}"),
            _ => {}
        }
    }
    let (nonce, of) = (job.manifest().manifest().nonce, job.manifest().segments());
    assert!(of > 0);
    assert_eq!(cluster.stores[0].crashed(|_| 0).segments(nonce).unwrap().count, of);
}
