//! Jobs on real nodes: every node serves its own port on loopback, with its
//! own key and store; owner and readers come over links like anywhere else.
#![cfg(feature = "net")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use beaverdam::backend::{Choice, Devices};
use beaverdam::entropy::Entropy;
use beaverdam::job;
use beaverdam::keys::{PublicKey, SecretKey};
use beaverdam::net::Limits;
use beaverdam::node::{self, Allow, Config};
use beaverdam::owner::{
    ClientError, Node, Prepared, Progress, Request, Results, cancel, data, fetch, prepare, read, states, submit, wait,
};
use beaverdam::program::{Builder, Openings, Planning, Program, Tensor, Type};
use beaverdam::roster::{Roster, Slot};
use beaverdam::store::{JobState, MemoryStore, Store};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// A node in a runtime of its own, so that it can die like a process.
struct Served {
    node: Node,
    store: Arc<dyn Store>,
    runtime: Runtime,
}

fn serve(allow: Allow, deadline: Duration, max_jobs: usize, store: Arc<dyn Store>) -> Served {
    serve_on(Devices::new(Choice::Cpu, None), allow, deadline, max_jobs, store)
}

fn serve_on(devices: Devices, allow: Allow, deadline: Duration, max_jobs: usize, store: Arc<dyn Store>) -> Served {
    let key = Arc::new(SecretKey::generate().unwrap());
    serve_at("127.0.0.1:0", key, devices, allow, deadline, max_jobs, store)
}

fn serve_at(
    address: &str,
    key: Arc<SecretKey>,
    devices: Devices,
    allow: Allow,
    deadline: Duration,
    max_jobs: usize,
    store: Arc<dyn Store>,
) -> Served {
    let public = key.public();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(async {
        loop {
            // The socket of a node that was killed may take a moment to close.
            match TcpListener::bind(address).await {
                Ok(listener) => return listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    });
    let address = listener.local_addr().unwrap().to_string();
    let config = Config {
        key,
        allow,
        store: store.clone(),
        limits: job::Limits::default(),
        deadline,
        patience: deadline,
        replace_after: deadline,
        entropy: Entropy::system(),
        devices: Arc::new(devices),
        net: Limits::default(),
        max_jobs,
        recovery: true,
    };
    runtime.spawn(async move { node::serve(listener, config, std::future::pending()).await.unwrap() });
    Served { node: Node { key: public, address }, store, runtime }
}

/// A node that its test has killed.
fn kill(served: Served) {
    served.runtime.shutdown_background();
}

fn cluster(n: u8, allow: &Allow, deadline: Duration) -> Vec<Served> {
    (0..n).map(|_| serve(allow.clone(), deadline, 4, Arc::new(MemoryStore::new()))).collect()
}

fn nodes(served: &[Served]) -> Vec<Node> {
    served.iter().map(|s| s.node.clone()).collect()
}

fn owner() -> Arc<SecretKey> {
    Arc::new(SecretKey::generate().unwrap())
}

fn only(key: &SecretKey) -> Allow {
    Allow::Keys(BTreeSet::from([key.public()]))
}

const PATIENT: Duration = Duration::from_secs(60);

/// A program with openings of both kinds, some rounds, and two readers if asked.
fn dot(length: usize, reader: &str) -> Program {
    let b = Builder::new();
    let x = b.input("x", "alice", Type::fixed(-100.0..=100.0), [length]);
    let w = b.input("w", "alice", Type::fixed(-100.0..=100.0), [length]);
    let products = &x * &w;
    b.output("dot", reader, &products.sum(0));
    b.output("positive", "alice", &products.ge0());
    b.finish().unwrap()
}

fn job(owner: &Arc<SecretKey>, roster: Roster, nodes: &[Node], length: usize, reader: Option<PublicKey>) -> Prepared {
    planned(owner, (roster, Planning::default()), nodes, length, reader)
}

fn planned(
    owner: &Arc<SecretKey>,
    (roster, planning): (Roster, Planning),
    nodes: &[Node],
    length: usize,
    reader: Option<PublicKey>,
) -> Prepared {
    let program = dot(length, if reader.is_some() { "bob" } else { "alice" });
    let keys: Vec<PublicKey> = nodes.iter().map(|n| n.key).collect();
    let inputs = BTreeMap::from([
        ("x".to_owned(), (0..length).map(|i| (i % 7) as f64 - 3.0).collect()),
        ("w".to_owned(), (0..length).map(|i| (i % 5) as f64 - 2.0).collect()),
    ]);
    let readers = reader.map(|key| ("bob".to_owned(), key)).into_iter().collect();
    let expires = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 3600;
    let request = Request {
        program: &program,
        roster,
        planning,
        nodes: &keys,
        spares: &[],
        inputs: &inputs,
        readers: &readers,
        attempts: 1,
        expires,
        note: "",
    };
    prepare(owner, &request, Entropy::system()).unwrap()
}

fn expected(length: usize) -> f64 {
    (0..length).map(|i| ((i % 7) as f64 - 3.0) * ((i % 5) as f64 - 2.0)).sum()
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn a_job_runs_on_every_scheme_and_its_owner_may_leave_in_between() {
    let king = Planning { openings: Openings::King, ..Planning::default() };
    let [four, three] = [(4, 1), (3, 1)].map(|(n, t)| Roster::shamir(n, t).unwrap());
    let spdz = Roster::spdz(3).unwrap();
    let plain = Planning::default();
    for (roster, planning) in [(four, plain), (spdz, plain), (four, king), (three, king)] {
        let owner = owner();
        let served = cluster(roster.nodes(), &only(&owner), PATIENT);
        let nodes = nodes(&served);
        // More than one segment of material.
        let prepared = planned(&owner, (roster, planning), &nodes, 1000, None);
        assert!(prepared.plan().stream_words > 65_536, "{}", prepared.plan().stream_words);
        let seen = Mutex::new(Vec::new());
        runtime()
            .block_on(submit(&prepared, &owner, &nodes, &Limits::default(), |p| seen.lock().unwrap().push(p)))
            .unwrap();
        for slot in roster.slots() {
            let seen = seen.lock().unwrap();
            assert!(seen.contains(&Progress::Connected { slot }) && seen.contains(&Progress::Accepted { slot }));
            assert!(
                seen.iter()
                    .any(|p| matches!(p, Progress::Stored { slot: s, segments, of } if *s == slot && segments == of))
            );
        }
        let ticket = prepared.ticket();
        let concluded = runtime().block_on(wait(&owner, &ticket, &nodes, &Limits::default(), |_| {})).unwrap();
        let results = read(&owner, &ticket, &concluded).unwrap();
        assert!((results.outputs["dot"][0] - expected(1000)).abs() < 0.1, "{roster}: {}", results.outputs["dot"][0]);
        assert_eq!(results.outputs["positive"].len(), 1000);
        // MACs, or what kings opened.
        assert_eq!(results.agreed.checks(), u32::from(roster == spdz || planning == king), "{roster}");
        for receipt in results.agreed.receipts() {
            assert!(receipt.sent > 1000 && receipt.received > 1000);
        }
        // Again, and as often as one likes.
        let again = runtime().block_on(fetch(&owner, &ticket, &nodes, &Limits::default())).unwrap();
        assert_eq!(read(&owner, &ticket, &again).unwrap().outputs, results.outputs);
        // The material is gone, the record stays.
        let nonce = prepared.manifest().manifest().nonce;
        for s in &served {
            // Readers may have it before the store, and the segments go last.
            until_finished(&*s.store, nonce);
            while s.store.segments(nonce).unwrap().count > 0 {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Two nodes compute on GPUs, one of which is lost in the middle of the job.
#[cfg(feature = "gpu")]
#[test]
fn a_job_goes_on_when_a_node_loses_its_gpu() {
    use beaverdam::backend::gpu::{Gpu, Options};
    let open = || Gpu::open(Options { software: true, ..Options::default() });
    let (lost, kept) = match (open(), open()) {
        (Ok(lost), Ok(kept)) => (lost, kept),
        (Err(error), _) | (_, Err(error)) => {
            assert!(std::env::var_os("BEAVERDAM_REQUIRE_GPU").is_none_or(|v| v != "1"), "a GPU is required: {error}");
            eprintln!("THIS TEST DID NOT RUN: {error}");
            return;
        }
    };
    for roster in [Roster::shamir(4, 1).unwrap(), Roster::spdz(3).unwrap()] {
        let owner = owner();
        let on = |devices| serve_on(devices, only(&owner), PATIENT, 4, Arc::new(MemoryStore::new()));
        let mut served = vec![on(Devices::of(lost.clone())), on(Devices::of(kept.clone()))];
        served.extend((2..roster.nodes()).map(|_| on(Devices::new(Choice::Cpu, None))));
        let nodes = nodes(&served);
        let prepared = job(&owner, roster, &nodes, 20_000, None);
        let before = (lost.traffic(), kept.traffic());
        let begun = |p: &Progress| matches!(p, Progress::Round { round: 1.., .. });
        let destroy = |p: Progress| {
            if begun(&p) {
                lost.destroy();
            }
        };
        runtime().block_on(submit(&prepared, &owner, &nodes, &Limits::default(), destroy)).unwrap();
        let ticket = prepared.ticket();
        let concluded = runtime().block_on(wait(&owner, &ticket, &nodes, &Limits::default(), destroy)).unwrap();
        let results = read(&owner, &ticket, &concluded).unwrap();
        assert!((results.outputs["dot"][0] - expected(20_000)).abs() < 2.0, "{roster}: {}", results.outputs["dot"][0]);
        assert!(results.agreed.receipts().iter().all(|r| r.blamed.is_empty()));
        // Both were at work; one is gone, which the second job knows from the start.
        assert!(kept.fault().is_none() && kept.traffic() != before.1);
        assert!(lost.fault().is_some() && (lost.traffic() != before.0) == (roster.nodes() == 4));
    }
}

#[test]
fn the_same_manifest_is_refused_a_second_time() {
    let owner = owner();
    let served = cluster(2, &only(&owner), PATIENT);
    let nodes = nodes(&served);
    let prepared = job(&owner, Roster::spdz(2).unwrap(), &nodes, 3, None);
    let limits = Limits::default();
    runtime().block_on(submit(&prepared, &owner, &nodes, &limits, |_| {})).unwrap();
    runtime().block_on(wait(&owner, &prepared.ticket(), &nodes, &limits, |_| {})).unwrap();
    let again = runtime().block_on(submit(&prepared, &owner, &nodes, &limits, |_| {})).unwrap_err();
    assert!(matches!(&again, ClientError::Refused { reason, .. } if reason.contains("already started")), "{again}");
}

#[test]
fn a_node_that_is_down_is_named_before_any_nonce_is_used() {
    let owner = owner();
    let mut served = cluster(3, &only(&owner), PATIENT);
    let nodes = nodes(&served);
    let prepared = job(&owner, Roster::shamir(3, 1).unwrap(), &nodes, 3, None);
    kill(served.remove(1));
    let error = runtime().block_on(submit(&prepared, &owner, &nodes, &Limits::default(), |_| {})).unwrap_err();
    assert!(matches!(error, ClientError::Net { slot: Slot(2), .. }), "{error}");
    for s in &served {
        assert!(s.store.jobs().unwrap().is_empty());
    }
}

#[test]
fn strangers_neither_submit_nor_fetch_nor_cancel() {
    let (known, stranger, bob) = (owner(), owner(), owner());
    let served = cluster(4, &only(&known), PATIENT);
    let nodes = nodes(&served);
    let roster = Roster::shamir(4, 1).unwrap();
    let limits = Limits::default();
    let run = runtime();

    let theirs = job(&stranger, roster, &nodes, 3, None);
    let refused = run.block_on(submit(&theirs, &stranger, &nodes, &limits, |_| {})).unwrap_err();
    assert!(matches!(&refused, ClientError::Refused { reason, .. } if reason.contains("takes no jobs")), "{refused}");

    let prepared = job(&known, roster, &nodes, 3, Some(bob.public()));
    let ticket = prepared.ticket();
    run.block_on(submit(&prepared, &known, &nodes, &limits, |_| {})).unwrap();
    let refused = run.block_on(wait(&stranger, &ticket, &nodes, &limits, |_| {})).unwrap_err();
    assert!(matches!(refused, ClientError::Refused { .. }), "{refused}");
    let refused = run.block_on(cancel(&stranger, &ticket, &nodes, &limits)).unwrap_err();
    assert!(matches!(refused, ClientError::Refused { .. }), "{refused}");
    // Readers read, but do not cancel.
    let refused = run.block_on(cancel(&bob, &ticket, &nodes, &limits)).unwrap_err();
    assert!(matches!(refused, ClientError::Refused { .. }), "{refused}");
    let concluded = run.block_on(wait(&bob, &ticket, &nodes, &limits, |_| {})).unwrap();
    let results = read(&bob, &ticket, &concluded).unwrap();
    assert!((results.outputs["dot"][0] - expected(3)).abs() < 1e-3);
    let refused = run.block_on(fetch(&stranger, &ticket, &nodes, &limits)).unwrap_err();
    assert!(matches!(refused, ClientError::Refused { .. }), "{refused}");
}

/// Shares are for the job's owner alone, whoever else the node serves.
#[test]
fn the_state_of_a_job_is_given_to_its_owner_alone() {
    let (known, another) = (owner(), owner());
    let allow = Allow::Keys(BTreeSet::from([known.public(), another.public()]));
    let mut served = cluster(4, &allow, PATIENT);
    let nodes = nodes(&served);
    let prepared = long_job(&known, Roster::shamir(4, 1).unwrap(), &nodes);
    let (run, limits, ticket) = (runtime(), Limits::default(), prepared.ticket());
    run.block_on(submit(&prepared, &known, &nodes, &limits, |_| {})).unwrap();
    // The others wait for it.
    kill(served.remove(1));
    let (held, missing) = run.block_on(states(&known, &ticket, &nodes, &limits)).unwrap();
    assert!(held.is_empty() && matches!(&missing[..], [ClientError::Net { slot: Slot(2), .. }]), "{missing:?}");
    let given = run.block_on(data(&known, &ticket, &nodes, &limits, [0])).unwrap();
    assert_eq!(given[&0], prepared.inputs()[0]);
    let refused = run.block_on(data(&known, &ticket, &nodes, &limits, [7])).unwrap_err();
    assert!(matches!(refused, ClientError::Refused { .. } | ClientError::Net { .. }), "{refused}");

    let (held, missing) = run.block_on(states(&another, &ticket, &nodes, &limits)).unwrap();
    let refused =
        |error: &ClientError| matches!(error, ClientError::Refused { reason, .. } if reason.contains("no running job"));
    assert!(held.is_empty() && missing.iter().filter(|error| refused(error)).count() == 3, "{missing:?}");
    assert!(run.block_on(data(&another, &ticket, &nodes, &limits, [0])).is_err());
}

/// Waits until no node has the job running any more; the reasons of the failed.
fn reasons(served: &[Served], nonce: [u8; 32]) -> Vec<String> {
    let state = |s: &Served| loop {
        match s.store.state(nonce).unwrap() {
            Some(JobState::Running) => std::thread::sleep(Duration::from_millis(20)),
            Some(JobState::Failed(reason)) => return reason,
            other => panic!("{other:?}"),
        }
    };
    served.iter().map(state).collect()
}

#[test]
fn a_node_that_dies_in_the_middle_ends_the_job_everywhere() {
    let owner = owner();
    let mut served = cluster(4, &only(&owner), Duration::from_secs(5));
    let nodes = nodes(&served);
    // Tens of segments: some are still to come when the first is stored.
    let prepared = job(&owner, Roster::shamir(4, 1).unwrap(), &nodes, 20_000, None);
    let mut victim = Some(served.remove(1));
    let (run, limits) = (runtime(), Limits::default());
    let submitted = run.block_on(submit(&prepared, &owner, &nodes, &limits, |progress| {
        if let Progress::Stored { segments: 1.., .. } = progress {
            victim.take().into_iter().for_each(kill);
        }
    }));
    // Everything may have been stored in the meantime.
    let ended =
        submitted.and_then(|()| run.block_on(wait(&owner, &prepared.ticket(), &nodes, &limits, |_| {})).map(drop));
    let error = ended.unwrap_err();
    assert!(error.to_string().contains("node 2"), "{error}");
    let nonce = prepared.manifest().manifest().nonce;
    for reason in reasons(&served, nonce) {
        assert!(reason.contains("node 2") || reason.contains("the owner left"), "{reason}");
    }
    for s in &served {
        assert_eq!(s.store.record(nonce).unwrap(), None);
        assert_eq!(s.store.segments(nonce).unwrap().count, 0);
    }
}

/// A job of many rounds, so that it is not over when a node is killed after the first.
fn long_job(owner: &Arc<SecretKey>, roster: Roster, nodes: &[Node]) -> Prepared {
    let b = Builder::new();
    let x = b.input("x", "alice", Type::fixed(-1.0..=1.0), [1000]);
    let square = |_: &Builder, s: &[Tensor]| (vec![(&s[0] * &s[0]).declare("square", -1.0..=1.0)], vec![]);
    let (ends, _) = b.repeat(200, std::slice::from_ref(&x), square);
    b.output("z", "alice", &ends[0]);
    let program = b.finish().unwrap();
    let keys: Vec<PublicKey> = nodes.iter().map(|n| n.key).collect();
    let inputs = BTreeMap::from([("x".to_owned(), vec![-0.5; 1000])]);
    let expires = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 3600;
    let request = Request {
        program: &program,
        roster,
        planning: Default::default(),
        nodes: &keys,
        spares: &[],
        inputs: &inputs,
        readers: &BTreeMap::new(),
        attempts: 1,
        expires,
        note: "",
    };
    prepare(owner, &request, Entropy::system()).unwrap()
}

/// Runs a long job and does something once it is in the middle; its results.
fn disturbed(owner: &Arc<SecretKey>, job: &Prepared, nodes: &[Node], disturb: impl FnOnce() + Send) -> Results {
    let (run, limits) = (runtime(), Limits::default());
    run.block_on(submit(job, owner, nodes, &limits, |_| {})).unwrap();
    let disturb = Mutex::new(Some(disturb));
    let ticket = job.ticket();
    let waiting = wait(owner, &ticket, nodes, &limits, |progress| {
        if let Progress::Round { round: 1.., .. } = progress
            && let Some(disturb) = disturb.lock().unwrap().take()
        {
            // Runtimes are made and ended, which this thread's own does not allow.
            std::thread::scope(|scope| scope.spawn(disturb).join().unwrap());
        }
    });
    let concluded = run.block_on(waiting).unwrap();
    assert!(disturb.lock().unwrap().is_none(), "the job was over before anything befell it");
    let results = read(owner, &ticket, &concluded).unwrap();
    assert!(results.outputs["z"].iter().all(|z| z.abs() < 0.01), "{:?}", &results.outputs["z"][..3]);
    results
}

fn until_finished(store: &dyn Store, nonce: [u8; 32]) {
    loop {
        match store.state(nonce).unwrap() {
            Some(JobState::Running) => std::thread::sleep(Duration::from_millis(20)),
            Some(JobState::Finished) => return,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_job_that_bears_a_loss_goes_on_without_a_node() {
    let (owner, roster) = (owner(), Roster::shamir(5, 1).unwrap());
    let mut served = cluster(5, &only(&owner), PATIENT);
    let nodes = nodes(&served);
    let prepared = long_job(&owner, roster, &nodes);
    let victim = served.remove(1);
    let results = disturbed(&owner, &prepared, &nodes, || kill(victim));
    assert!(results.agreed.receipts().iter().all(|receipt| receipt.slot != Slot(2)));
    for s in &served {
        until_finished(&*s.store, prepared.manifest().manifest().nonce);
    }
}

#[test]
fn a_node_that_is_killed_and_started_again_takes_part_again() {
    use beaverdam::store::RedbStore;
    // The first job goes on meanwhile, the second waits.
    for roster in [Roster::shamir(5, 1).unwrap(), Roster::shamir(4, 1).unwrap()] {
        let owner = owner();
        let mut served = cluster(roster.nodes() - 1, &only(&owner), PATIENT);
        let (dir, key) = (tempfile::tempdir().unwrap(), Arc::new(SecretKey::generate().unwrap()));
        let path = dir.path().join("store");
        let start = |address: &str, store| {
            let cpu = Devices::new(Choice::Cpu, None);
            serve_at(address, Arc::clone(&key), cpu, only(&owner), PATIENT, 4, store)
        };
        served.insert(1, start("127.0.0.1:0", Arc::new(RedbStore::open(&path).unwrap())));
        let nodes = nodes(&served);
        let prepared = long_job(&owner, roster, &nodes);
        let nonce = prepared.manifest().manifest().nonce;
        let (victim, address) = (served.remove(1), nodes[1].address.clone());
        let mut again = None;
        disturbed(&owner, &prepared, &nodes, || {
            kill(victim);
            // What still runs of it holds the store for a moment.
            let store = loop {
                match RedbStore::open(&path) {
                    Ok(store) => break Arc::new(store),
                    Err(_) => std::thread::sleep(Duration::from_millis(10)),
                }
            };
            assert_eq!(store.interrupted().unwrap().len(), 1, "it was over before the node was killed");
            again = Some(start(&address, store));
        });
        served.extend(again);
        for s in &served {
            until_finished(&*s.store, nonce);
        }
    }
}

#[test]
fn an_owner_cancels_its_job() {
    let owner = owner();
    let served = cluster(2, &only(&owner), PATIENT);
    let nodes = nodes(&served);
    let prepared = job(&owner, Roster::spdz(2).unwrap(), &nodes, 20_000, None);
    let ticket = prepared.ticket();
    let limits = Limits::default();
    let (submitted, cancelled) = runtime().block_on(async {
        let (sender, started) = tokio::sync::oneshot::channel();
        let mut sender = Some(sender);
        let submitting = submit(&prepared, &owner, &nodes, &limits, |progress| {
            if let Progress::Stored { .. } = progress
                && let Some(sender) = sender.take()
            {
                sender.send(()).unwrap();
            }
        });
        let cancelling = async {
            started.await.unwrap();
            let early = fetch(&owner, &ticket, &nodes, &limits).await.unwrap_err();
            assert!(matches!(early, ClientError::NotYet { .. }), "{early}");
            cancel(&owner, &ticket, &nodes, &limits).await
        };
        tokio::join!(submitting, cancelling)
    });
    // All may have been stored by then.
    assert!(matches!(submitted, Ok(()) | Err(ClientError::Failed { .. })), "{submitted:?}");
    // One node may have ended by the other's word before it was asked itself.
    assert!(matches!(cancelled, Ok(()) | Err(ClientError::Refused { .. })), "{cancelled:?}");
    let reasons = reasons(&served, prepared.manifest().manifest().nonce);
    assert!(reasons.iter().any(|reason| reason.contains("cancelled")), "{reasons:?}");
    let fetched = runtime().block_on(fetch(&owner, &ticket, &nodes, &limits)).unwrap_err();
    // The first node to end makes the owner's submission end, and the other
    // may see that link break before it is asked to cancel.
    assert!(matches!(fetched, ClientError::Failed { .. }), "{fetched}");
}

#[test]
fn a_restarted_node_fails_what_was_running() {
    let owner = owner();
    let dir = tempfile::tempdir().unwrap();
    let open = || Arc::new(beaverdam::store::RedbStore::open(dir.path().join("store")).unwrap());
    let store = open();
    store.begin([7; 32], [8; 32]).unwrap();
    drop(store);
    let store = open();
    let served = serve(only(&owner), PATIENT, 1, store.clone());
    let reasons = reasons(std::slice::from_ref(&served), [7; 32]);
    assert!(reasons[0].contains("restarted"), "{reasons:?}");
    assert!(store.interrupted().unwrap().is_empty());
}
