//! Idle links, dead peers and wrong messages, in virtual time.

use futures_util::SinkExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::sleep;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as Ws;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;

type Raw = WebSocketStream<DuplexStream>;

async fn raw_pair() -> (Raw, Raw) {
    let (near, far) = duplex(16 << 10);
    let config = Some(client_config());
    (Raw::from_raw_socket(near, Role::Client, config).await, Raw::from_raw_socket(far, Role::Server, config).await)
}

async fn pair() -> (Socket<Raw>, Socket<Raw>) {
    let (near, far) = raw_pair().await;
    (Socket::new(near, &Limits::default()), Socket::new(far, &Limits::default()))
}

#[tokio::test(start_paused = true)]
async fn an_idle_stream_stays_up_as_long_as_both_sides_read() {
    let (mut near, mut far) = pair().await;
    let day = Duration::from_secs(86_400);
    let listening = async {
        let byte = far.read_u8().await.unwrap();
        far.write_u8(byte + 1).await.unwrap();
        far.flush().await.unwrap();
        far
    };
    let (mut reader, mut writer) = tokio::io::split(&mut near);
    let speaking = async {
        sleep(day).await;
        writer.write_u8(1).await.unwrap();
        writer.flush().await.unwrap();
    };
    let (byte, (), _far) = tokio::join!(reader.read_u8(), speaking, listening);
    assert_eq!(byte.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_no_ping_is_noticed() {
    let (mut near, _far) = pair().await;
    let start = Instant::now();
    let error = near.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    assert!((60..=100).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn time_in_which_we_did_not_read_is_not_the_peers_silence() {
    let (mut near, mut far) = pair().await;
    // Both compute for ten minutes and read nothing.
    sleep(Duration::from_secs(600)).await;
    let late = async {
        sleep(Duration::from_secs(30)).await;
        far.write_u8(9).await.unwrap();
        far.flush().await.unwrap();
    };
    let (byte, ()) = tokio::join!(near.read_u8(), late);
    assert_eq!(byte.unwrap(), 9);
}

#[tokio::test]
async fn bytes_pass_whatever_the_messages_are_cut_into() {
    let (near, mut far) = raw_pair().await;
    let mut near = Socket::new(near, &Limits::default());
    let data: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
    let cut = async {
        let mut rest = &data[..];
        for len in [0, 1, 125, 126, 65_535, 65_536, 0, 100_000].into_iter().cycle() {
            let (message, more) = rest.split_at(rest.len().min(len).min(MAX_MESSAGE));
            far.send(Ws::Binary(message.to_vec().into())).await.unwrap();
            far.send(Ws::Ping(Bytes::from_static(b"hm"))).await.unwrap();
            rest = more;
            if rest.is_empty() {
                break;
            }
        }
        far.close(None).await.unwrap();
    };
    let mut got = Vec::new();
    let (read, ()) = tokio::join!(near.read_to_end(&mut got), cut);
    read.unwrap();
    assert!(got == data);
}

#[tokio::test]
async fn text_and_oversized_messages_are_errors() {
    for bad in [Ws::text("GET /"), Ws::Binary(vec![0; MAX_MESSAGE + 1].into())] {
        let (near, mut far) = raw_pair().await;
        let mut near = Socket::new(near, &Limits::default());
        let sending = async {
            // The reader gives up in the middle of the long one.
            let _ = far.send(bad).await;
        };
        let reading = async move {
            let error = near.read_u8().await.unwrap_err();
            drop(near);
            error
        };
        let (error, ()) = tokio::join!(reading, sending);
        assert!(!matches!(error.kind(), io::ErrorKind::UnexpectedEof), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_peer_that_does_not_read_is_bounded() {
    let (mut near, _far) = pair().await;
    let mut taken = 0;
    let flood = async {
        loop {
            taken += near.write(&[7; 10_000]).await.unwrap();
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), flood).await;
    assert!((16 << 10..WRITE_BUFFER).contains(&taken), "{taken}");
}
