//! Peers that are slow, lie about lengths or greet wrongly, in virtual time.

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{advance, sleep};

use super::*;

/// A link, and the other end of its stream in the attacker's hands.
fn attacked(limits: &Limits) -> (Link, DuplexStream) {
    let (ours, theirs) = duplex(64 << 10);
    (Link::new(ours, [7; 32], "h:1".into(), limits, None), theirs)
}

fn pair() -> (Link, Link) {
    let (ours, theirs) = attacked(&Limits::default());
    (ours, Link::new(theirs, [8; 32], "h:2".into(), &Limits::default(), None))
}

fn hello(role: Role) -> Hello {
    Hello { magic: MAGIC, protocol_version: PROTOCOL_VERSION, role, software: "test".into() }
}

fn framed(payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32).to_le_bytes()[..], payload].concat()
}

#[tokio::test]
async fn long_frames_pass_in_both_directions_at_once() {
    let (mut a, mut b) = pair();
    a.set_limit(20_000_000);
    b.set_limit(20_000_000);
    let pattern = |seed: u32| (0..20_000_000u32).map(|i| (i.wrapping_mul(seed) >> 13) as u8).collect::<Vec<u8>>();
    let meter = a.meter();
    let run = |link: Link, send: Vec<u8>, expect: Vec<u8>| async move {
        let (mut sender, mut receiver) = link.split();
        let (head, body) = send.split_at(100);
        let out = async {
            sender.send_parts(head, body).await?;
            sender.send(b"end").await?;
            sender.flush().await
        };
        let (sent, received) = tokio::join!(out, receiver.recv());
        sent.unwrap();
        assert!(received.unwrap() == expect, "a frame has changed");
        assert_eq!(receiver.recv().await.unwrap(), "end");
    };
    tokio::join!(run(a, pattern(3), pattern(5)), run(b, pattern(5), pattern(3)));
    assert_eq!(meter.traffic(), Traffic { sent: 20_000_011, received: 20_000_011 });
}

#[tokio::test]
async fn a_length_over_the_limit_is_refused_before_allocation() {
    let (mut link, mut peer) = attacked(&Limits::default());
    peer.write_all(&u32::MAX.to_le_bytes()).await.unwrap();
    let error = link.recv().await.unwrap_err();
    assert!(matches!(error, NetError::TooLong { found: 0xffff_ffff, limit: 65536, .. }), "{error}");
    assert!(matches!(link.recv().await, Err(NetError::Unusable { .. })));

    let (mut link, mut peer) = attacked(&Limits::default());
    link.set_limit(8);
    peer.write_all(&framed(&[1; 8])).await.unwrap();
    assert_eq!(link.recv().await.unwrap().len(), 8);
    peer.write_all(&framed(&[1; 9])).await.unwrap();
    assert!(matches!(link.recv().await, Err(NetError::TooLong { found: 9, limit: 8, .. })));
}

#[tokio::test(start_paused = true)]
async fn memory_grows_only_as_bytes_arrive() {
    let (mut link, mut peer) = attacked(&Limits::default());
    link.set_limit(usize::MAX);
    peer.write_all(&(1u32 << 31).to_le_bytes()).await.unwrap();
    for sent in [10, 10_000, 100_000, 400_000] {
        let write = async {
            peer.write_all(&vec![1; sent]).await.unwrap();
            sleep(Duration::from_millis(1)).await;
        };
        tokio::select! {
            frame = link.recv() => panic!("a frame out of a part of it: {frame:?}"),
            () = write => {}
        }
        let State::Body(body, _) = &link.receiver.state else { panic!("the header was not read") };
        assert!(
            !body.is_empty() && body.capacity() <= FIRST_ALLOCATION.max(2 * body.len()) + 64,
            "{}",
            body.capacity()
        );
    }
}

#[tokio::test]
async fn an_empty_frame_is_refused_both_ways() {
    let (mut link, mut peer) = attacked(&Limits::default());
    assert!(matches!(link.send(&[]).await, Err(NetError::Empty { .. })));
    link.send(b"x").await.unwrap();
    peer.write_all(&[0; 4]).await.unwrap();
    assert!(matches!(link.recv().await, Err(NetError::Empty { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_drips_runs_into_the_frames_deadline() {
    for head in [0, 2, 4] {
        let (mut link, mut peer) = attacked(&Limits::default());
        let frame = framed(&[1; 1000]);
        peer.write_all(&frame[..head]).await.unwrap();
        let dripped = tokio::spawn(async move {
            for (i, byte) in frame[head..].iter().enumerate() {
                sleep(Duration::from_secs(1)).await;
                if peer.write_all(&[*byte]).await.is_err() {
                    return i;
                }
            }
            usize::MAX
        });
        let start = Instant::now();
        let error = link.recv().await.unwrap_err();
        assert!(matches!(error, NetError::TooSlow { what: "a whole frame", .. }), "{error}");
        assert!(start.elapsed() < 3 * Limits::default().frame);
        drop(link);
        assert!((15..60).contains(&dripped.await.unwrap()));
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_link_lives_until_the_idle_time_out() {
    let (mut link, mut peer) = attacked(&Limits::default());
    let idle = Limits::default().idle;
    for _ in 0..2 {
        let late = async {
            sleep(idle - Duration::from_secs(1)).await;
            peer.write_all(&framed(b"late")).await.unwrap();
        };
        let (frame, ()) = tokio::join!(link.recv(), late);
        assert_eq!(frame.unwrap(), "late");
    }
    let error = link.recv().await.unwrap_err();
    assert!(matches!(error, NetError::TooSlow { what: "the next frame", .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_reads_runs_into_the_write_deadline() {
    let (mut link, _peer) = attacked(&Limits::default());
    let start = Instant::now();
    let error = link.send(&vec![1; 10 << 20]).await.unwrap_err();
    assert!(matches!(error, NetError::TooSlow { what: "taking a frame", .. }), "{error}");
    assert_eq!(start.elapsed().as_secs(), 20 + 160);
    assert!(matches!(link.send(b"x").await, Err(NetError::Unusable { .. })));
    assert!(matches!(link.flush().await, Err(NetError::Unusable { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_send_is_noticed_and_a_cancelled_recv_loses_nothing() {
    let (mut link, mut peer) = attacked(&Limits::default());
    let long = vec![1; 1 << 20];
    tokio::select! {
        _ = link.send(&long) => panic!("nobody reads"),
        () = sleep(Duration::from_secs(1)) => {}
    }
    assert!(matches!(link.send(b"x").await, Err(NetError::Unusable { .. })));

    for byte in framed(b"piecewise") {
        tokio::select! {
            biased;
            frame = link.recv() => panic!("too early: {frame:?}"),
            () = sleep(Duration::from_millis(1)) => {}
        }
        peer.write_all(&[byte]).await.unwrap();
    }
    assert_eq!(link.recv().await.unwrap(), "piecewise");
    advance(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn the_end_of_the_stream_inside_a_frame_is_told_from_a_goodbye() {
    for cut in 0..8 {
        let (mut link, mut peer) = attacked(&Limits::default());
        peer.write_all(&framed(b"abcdef")[..cut]).await.unwrap();
        drop(peer);
        let error = link.recv().await.unwrap_err();
        assert_eq!(matches!(error, NetError::Closed { .. }), cut == 0, "{error}");
        assert!(error.to_string().contains("07070707") && error.to_string().contains("h:1"), "{error}");
    }
}

#[tokio::test]
async fn hellos_of_one_version_agree_and_leave_the_limit_as_it_was() {
    let (a, b) = pair();
    let (a, b) = tokio::join!(a.greet(Role::Dialler), b.greet(Role::Listener));
    assert_eq!(a.unwrap().receiver.limit, Limits::default().first_frames);
    b.unwrap();
}

#[tokio::test]
async fn another_version_is_named_on_both_sides() {
    let (a, b) = pair();
    let newer = Hello { protocol_version: 2, software: "beaverdam 9.9".into(), ..hello(Role::Listener) };
    let (a, b) = tokio::join!(a.greet(Role::Dialler), b.greet_as(&newer));
    let (a, b) = (a.unwrap_err(), b.unwrap_err());
    assert!(matches!(a, NetError::Version { found: 2, expected: 1, .. }), "{a}");
    assert!(a.to_string().contains("beaverdam 9.9"), "{a}");
    assert!(matches!(b, NetError::Version { found: 1, expected: 2, .. }), "{b}");

    // A later version may say more, or something else, after its number.
    let (a, mut peer) = attacked(&Limits::default());
    let frame = [&MAGIC[..], &[0x85, 0x01], &[0xff; 100]].concat();
    peer.write_all(&framed(&frame)).await.unwrap();
    let error = a.greet(Role::Dialler).await.unwrap_err();
    assert!(matches!(error, NetError::Version { found: 133, .. }), "{error}");
}

#[tokio::test]
async fn our_own_hello_that_comes_back_is_refused() {
    for role in [Role::Dialler, Role::Listener] {
        let (link, mut peer) = attacked(&Limits::default());
        let reflect = async {
            let mut frame = vec![0; 1024];
            let n = peer.read(&mut frame).await.unwrap();
            peer.write_all(&frame[..n]).await.unwrap();
            peer.read_to_end(&mut Vec::new()).await.unwrap();
            n
        };
        let (greeted, reflected) = tokio::join!(link.greet(role), reflect);
        let error = greeted.unwrap_err();
        assert!(reflected > HEADER && error.to_string().contains("came back"), "{error}");
    }
}

#[tokio::test]
async fn malformed_hellos_are_refused() {
    let good = postcard::to_stdvec(&hello(Role::Listener)).unwrap();
    let long = Hello { software: "x".repeat(65), ..hello(Role::Listener) };
    let huge = Hello { software: "x".repeat(300), ..hello(Role::Listener) };
    let cases = [
        (good[..8].to_vec(), "too short"),
        ([b"another!", &good[8..]].concat(), "magic"),
        (good[..good.len() - 1].to_vec(), "decoded"),
        ([&good[..], b"x"].concat(), "longer"),
        (postcard::to_stdvec(&long).unwrap(), "longer"),
        (postcard::to_stdvec(&huge).unwrap(), "over the limit of 256"),
    ];
    for (frame, reason) in cases {
        let (link, mut peer) = attacked(&Limits::default());
        peer.write_all(&framed(&frame)).await.unwrap();
        let error = link.greet(Role::Dialler).await.unwrap_err();
        assert!(error.to_string().contains(reason), "{error}, expected {reason}");
    }
}

proptest! {
    #[test]
    fn no_hello_makes_us_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), keep in 0usize..24) {
        let good = postcard::to_stdvec(&hello(Role::Listener)).unwrap();
        let frame = [&good[..keep.min(good.len())], &bytes[..]].concat();
        let accepted = check_hello(&frame, &hello(Role::Dialler), "peer").is_ok();
        prop_assert!(!accepted || frame.starts_with(&MAGIC));
    }

    #[test]
    fn no_bytes_make_a_receiver_panic(bytes in proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (mut link, mut peer) = attacked(&Limits::default());
            peer.write_all(&bytes).await.unwrap();
            drop(peer);
            while link.recv().await.is_ok() {}
        });
    }
}
