//! One battery for every [`Transport`], over TLS and in memory.

use std::time::Duration;

use tokio::io::duplex;
use tokio::time::timeout;

use super::*;
use crate::keys::SecretKey;
use crate::net::Shape;
use crate::net::link::Role;
use crate::net::tls::{self, Identity};

fn limits() -> Limits {
    Limits { queue: 4 << 20, ..Limits::default() }
}

fn identities(n: u8) -> Vec<Identity> {
    (1..=n).map(|i| Identity::new(&SecretKey::from_seed([i; 32])).unwrap()).collect()
}

/// Two ends of a link with real TLS and hellos, over a pipe.
async fn linked(a: &Identity, b: &Identity) -> (Link, Link) {
    let (near, far) = duplex(64 << 10);
    let config = b.server(Arc::new(|_| true)).unwrap();
    let dialling = async {
        let tls = a.connect(near, b.own(), "pipe").await.unwrap();
        Link::new(tls, b.own(), "pipe".into(), &limits(), None).greet(Role::Dialler).await.unwrap()
    };
    let listening = async {
        let (tls, peer) = tls::accept(config, far, "pipe").await.unwrap();
        Link::new(tls, peer, "pipe".into(), &limits(), None).greet(Role::Listener).await.unwrap()
    };
    let (mut x, mut y) = tokio::join!(dialling, listening);
    x.set_limit(8 << 20);
    y.set_limit(8 << 20);
    (x, y)
}

async fn link_meshes(n: u8) -> Vec<LinkMesh> {
    let identities = identities(n);
    let mut meshes: Vec<_> = (0..n).map(|_| LinkMesh::new(&limits())).collect();
    for i in 0..usize::from(n) {
        for j in i + 1..usize::from(n) {
            let (near, far) = linked(&identities[i], &identities[j]).await;
            meshes[i].attach(Slot(j as u8 + 1), near);
            meshes[j].attach(Slot(i as u8 + 1), far);
        }
    }
    meshes
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(30), future).await.expect("the mesh is stuck")
}

/// What every transport must do; `all` are the nodes 1 to n, all linked.
async fn battery<T: Transport + 'static>(mut all: Vec<T>) {
    let n = all.len() as u8;

    // Wrong sends are refused and change nothing.
    let to_self = all[0].send(Slot(1), Bytes::from_static(b"x")).await;
    assert!(matches!(to_self, Err(NetError::NoLink { slot: Slot(1) })));
    let outside = all[0].send(Slot(n + 1), Bytes::from_static(b"x")).await;
    assert!(matches!(outside, Err(NetError::NoLink { .. })));
    assert!(matches!(all[0].send(Slot(2), Bytes::new()).await, Err(NetError::Empty { .. })));

    // All send to all before anybody reads: order per peer, nothing lost.
    let before: Vec<_> = all.iter().map(T::traffic).collect();
    let body = |from: u8, to: u8, round: u8| Bytes::from([vec![from, to, round], vec![from ^ to; 1 << 20]].concat());
    for round in 0..3 {
        for from in 1..=n {
            for to in (1..=n).filter(|to| *to != from) {
                soon(all[usize::from(from) - 1].send(Slot(to), body(from, to, round))).await.unwrap();
            }
        }
    }
    for to in 1..=n {
        let mut rounds = vec![0; usize::from(n) + 1];
        for _ in 0..3 * (n - 1) {
            let (from, frame) = soon(all[usize::from(to) - 1].recv()).await;
            let round = &mut rounds[usize::from(from.0)];
            assert!(frame.unwrap() == body(from.0, to, *round), "{from} to {to}");
            *round += 1;
        }
    }
    let each = u64::from(n - 1) * 3 * ((1 << 20) + 3 + 4);
    for (mesh, before) in all.iter().zip(before) {
        let traffic = mesh.traffic();
        assert_eq!((traffic.sent - before.sent, traffic.received - before.received), (each, each));
    }

    // A frame longer than the whole queue passes alone.
    let long = Bytes::from(vec![3; 6 << 20]);
    let (first, rest) = all.split_at_mut(1);
    let (sent, (from, got)) = soon(async { tokio::join!(first[0].send(Slot(2), long.clone()), rest[0].recv()) }).await;
    sent.unwrap();
    assert!(from == Slot(1) && got.unwrap() == long);

    // A sender waits when nobody reads, and goes on when somebody does.
    let mut accepted = 0;
    let flood = async {
        for _ in 0..64 {
            first[0].send(Slot(2), Bytes::from(vec![1; 1 << 20])).await.unwrap();
            accepted += 1;
        }
    };
    assert!(timeout(Duration::from_millis(300), flood).await.is_err(), "nothing held the sender up");
    assert!((3..=16).contains(&accepted), "{accepted} MiB were taken");
    for _ in 0..accepted {
        assert_eq!(soon(rest[0].recv()).await.1.unwrap().len(), 1 << 20);
    }

    // The last node leaves; what it sent before still arrives, then its end.
    let mut last = all.pop().unwrap();
    soon(last.send(Slot(1), Bytes::from_static(b"last words"))).await.unwrap();
    drop(last);
    let (from, frame) = soon(all[0].recv()).await;
    assert_eq!((from, frame.unwrap()), (Slot(n), Bytes::from_static(b"last words")));
    let (from, end) = soon(all[0].recv()).await;
    assert!(from == Slot(n) && matches!(end, Err(NetError::Closed { .. })), "{end:?}");
    let refused = soon(async {
        loop {
            if let Err(error) = all[0].send(Slot(n), Bytes::from_static(b"x")).await {
                return error;
            }
            tokio::task::yield_now().await;
        }
    });
    assert!(matches!(refused.await, NetError::Unusable { .. }));

    // The others go on.
    soon(all[0].send(Slot(2), Bytes::from_static(b"still here"))).await.unwrap();
    loop {
        let (from, frame) = soon(all[1].recv()).await;
        if from == Slot(1) {
            assert_eq!(frame.unwrap(), "still here");
            break;
        }
        assert!(from == Slot(n) && frame.is_err());
    }
}

#[tokio::test]
async fn links_are_a_transport() {
    battery(link_meshes(4).await).await;
}

/// On the paused clock, which jumps to the next due time whenever all wait.
#[tokio::test(start_paused = true)]
async fn a_shaped_mesh_delays_frames_that_pipeline() {
    let identities = identities(2);
    let (near, far) = linked(&identities[0], &identities[1]).await;
    // 50 ms one way, 1 MB/s.
    let shape = Some(Arc::new(Shape::new(Duration::from_millis(50), Some(1e6))));
    let (mut one, mut two) = (LinkMesh::new(&Limits { shape, ..limits() }), LinkMesh::new(&limits()));
    one.attach(Slot(2), near);
    two.attach(Slot(1), far);
    let begun = Instant::now();
    for byte in 0..10 {
        one.send(Slot(2), Bytes::from(vec![byte; 10_000])).await.unwrap();
    }
    assert_eq!(begun.elapsed(), Duration::ZERO, "queueing waits for nobody");
    for byte in 0..10 {
        let (_, frame) = soon(two.recv()).await;
        assert_eq!(frame.unwrap()[0], byte);
        // The latency once, and 10 ms for each frame; the clock counts whole milliseconds.
        let due = Duration::from_millis(50 + 10 * (u64::from(byte) + 1));
        assert!((due..due + Duration::from_millis(5)).contains(&begun.elapsed()), "{byte}: {:?}", begun.elapsed());
    }
    // The other way is another uplink, which is not shaped here.
    let asked = Instant::now();
    two.send(Slot(1), Bytes::from_static(b"back")).await.unwrap();
    assert_eq!(soon(one.recv()).await.1.unwrap(), "back");
    assert!(asked.elapsed() < Duration::from_millis(5));
}

#[tokio::test]
async fn memory_is_a_transport() {
    battery(MemoryMesh::all(4, &limits())).await;
}

#[tokio::test]
async fn a_frame_over_a_links_limit_ends_that_link_only() {
    let mut all = link_meshes(3).await;
    all[0].send(Slot(2), Bytes::from(vec![1; (8 << 20) + 1])).await.unwrap();
    let (from, error) = soon(all[1].recv()).await;
    assert!(from == Slot(1) && matches!(error, Err(NetError::TooLong { .. })), "{error:?}");
    all[2].send(Slot(2), Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(soon(all[1].recv()).await.1.unwrap(), "x");
}

#[tokio::test]
async fn a_link_can_be_replaced_and_the_old_one_is_heard_no_more() {
    let identities = identities(2);
    let mut meshes = link_meshes(2).await;
    let (near, far) = linked(&identities[0], &identities[1]).await;
    let before = meshes[0].traffic();
    meshes[0].attach(Slot(2), near);
    meshes[1].attach(Slot(1), far);
    assert!(meshes[0].traffic().sent >= before.sent);
    meshes[0].send(Slot(2), Bytes::from_static(b"anew")).await.unwrap();
    // The first thing to come is the frame, not the old link's end.
    let (from, frame) = soon(meshes[1].recv()).await;
    assert_eq!((from, frame.unwrap()), (Slot(1), Bytes::from_static(b"anew")));
}
