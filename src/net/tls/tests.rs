//! Peers with a wrong key, no key, or somebody else's key.

use tokio::io::{DuplexStream, duplex};

use super::*;

fn identity(seed: u8) -> Identity {
    Identity::new(&SecretKey::from_seed([seed; 32])).unwrap()
}

type Outcome = (Result<client::TlsStream<DuplexStream>, NetError>, Result<[u8; 32], NetError>);

/// The dialler's verdict after it has read once, since a refusal comes late in TLS 1.3.
async fn meet(dialler: &Identity, expected: [u8; 32], listener: &Identity, allow: Allow) -> Outcome {
    let (near, far) = duplex(64 << 10);
    let config = listener.server(allow).unwrap();
    let dialling = async {
        let mut tls = dialler.connect(near, expected, "far").await?;
        match tls.read_u8().await {
            Ok(1) => Ok(tls),
            Ok(other) => panic!("{other}"),
            Err(error) => Err(NetError::lost("far", error)),
        }
    };
    let listening = async {
        let (mut tls, peer) = accept(config, far, "near").await?;
        tls.write_u8(1).await.unwrap();
        tls.flush().await.unwrap();
        Ok(peer)
    };
    tokio::join!(dialling, listening)
}

fn anybody() -> Allow {
    Arc::new(|_| true)
}

#[tokio::test]
async fn peers_know_each_other_by_key() {
    let (a, b) = (identity(1), identity(2));
    let (dialled, listened) = meet(&a, b.own, &b, anybody()).await;
    let tls = dialled.unwrap();
    let session = tls.get_ref().1;
    assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    assert_eq!(session.alpn_protocol(), Some(ALPN));
    assert_eq!(session.handshake_kind(), Some(rustls::HandshakeKind::Full));
    assert_eq!(listened.unwrap(), a.own);
}

#[tokio::test]
async fn a_listener_with_another_key_is_named() {
    let (a, b, c) = (identity(1), identity(2), identity(3));
    let (dialled, listened) = meet(&a, c.own, &b, anybody()).await;
    match dialled.unwrap_err() {
        NetError::WrongKey { address, expected, found } => {
            assert_eq!((address.as_str(), expected, found), ("far", c.own, b.own));
        }
        other => panic!("{other}"),
    }
    assert!(matches!(listened.unwrap_err(), NetError::Refused { .. }));
}

#[tokio::test]
async fn a_stranger_is_named_and_told() {
    let (a, b) = (identity(1), identity(2));
    let friend = identity(3).own;
    let (dialled, listened) = meet(&a, b.own, &b, Arc::new(move |key| key == friend)).await;
    assert!(matches!(dialled.unwrap_err(), NetError::Refused { .. }));
    assert!(matches!(listened.unwrap_err(), NetError::Stranger { found, .. } if found == a.own));
}

#[tokio::test]
async fn our_own_key_is_no_peer() {
    let a = identity(1);
    let (dialled, _) = meet(&a, a.own, &a, anybody()).await;
    assert!(matches!(dialled.unwrap_err(), NetError::Ourselves { .. }));
    let (dialled, _) = meet(&a, identity(2).own, &a, anybody()).await;
    assert!(matches!(dialled.unwrap_err(), NetError::Ourselves { .. }));
}

/// Shows one key and signs with another.
fn impostor(shown: &Identity, signer: &Identity) -> Identity {
    let key = CertifiedKey::new(shown.key.cert.clone(), signer.key.key.clone());
    Identity { own: signer.own, key: Arc::new(key), provider: signer.provider.clone() }
}

#[tokio::test]
async fn a_shown_key_without_its_secret_gets_nowhere() {
    let (a, b, c) = (identity(1), identity(2), identity(3));
    let (dialled, listened) = meet(&impostor(&c, &a), b.own, &b, anybody()).await;
    assert!(dialled.is_err());
    assert!(matches!(listened.unwrap_err(), NetError::Tls { .. }));
    let (dialled, listened) = meet(&a, c.own, &impostor(&c, &b), anybody()).await;
    assert!(matches!(dialled.unwrap_err(), NetError::Tls { .. }));
    assert!(listened.is_err());
}

/// Runs a dialler with other settings against an honest listener.
async fn against(config: ClientConfig, listener: &Identity) -> Result<[u8; 32], NetError> {
    let (near, far) = duplex(64 << 10);
    let server = listener.server(anybody()).unwrap();
    let name = ServerName::try_from("beaverdam").unwrap();
    let dialling = async {
        // Its own errors do not matter: the listener's verdict does.
        if let Ok(mut tls) = TlsConnector::from(Arc::new(config)).connect(name, near).await {
            let _ = tls.read_u8().await;
        }
    };
    let ((), listened) = tokio::join!(dialling, async { accept(server, far, "near").await.map(|(_, peer)| peer) });
    listened
}

#[tokio::test]
async fn a_dialler_without_key_or_protocol_is_refused() {
    let (a, b) = (identity(1), identity(2));
    let verifier = || Pinned { own: a.own, provider: a.provider.clone(), rule: Rule::Only(b.own) };
    let keyless = ClientConfig::builder_with_provider(a.provider.clone())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier()))
        .with_no_client_auth();
    assert!(matches!(against(keyless, &b).await, Err(NetError::Tls { .. })));

    for alpn in [vec![], vec![b"beaverdam/2".to_vec()]] {
        let mut config = a.client(b.own).unwrap();
        config.alpn_protocols = alpn;
        assert!(matches!(against(config, &b).await, Err(NetError::Tls { .. })));
    }
    assert_eq!(against(a.client(b.own).unwrap(), &b).await.unwrap(), a.own);
}

#[tokio::test]
async fn a_changed_byte_between_the_peers_breaks_the_session() {
    let (a, b) = (identity(1), identity(2));
    let ((near, mut near_wire), (far, mut far_wire)) = (duplex(64 << 10), duplex(64 << 10));
    let server = b.server(anybody()).unwrap();
    let relay = async {
        let (mut near_read, mut near_write) = tokio::io::split(&mut near_wire);
        let (mut far_read, mut far_write) = tokio::io::split(&mut far_wire);
        let forth = tokio::io::copy(&mut near_read, &mut far_write);
        let back = async {
            let mut record = vec![0; 1 << 16];
            loop {
                let n = far_read.read(&mut record).await.unwrap();
                // The listener's last record, and only that, is this short.
                if n < 64 {
                    record[n - 1] ^= 1;
                    near_write.write_all(&record[..n]).await.unwrap();
                    return n;
                }
                near_write.write_all(&record[..n]).await.unwrap();
            }
        };
        tokio::select! { _ = forth => panic!("the dialler left early"), n = back => n }
    };
    let dialling = async {
        let mut tls = a.connect(near, b.own, "far").await.unwrap();
        tls.read_u8().await.map_err(|error| NetError::lost("far", error))
    };
    let listening = async {
        let (mut tls, _) = accept(server, far, "near").await.unwrap();
        tls.write_u8(1).await.unwrap();
        tls.flush().await.unwrap();
        tls
    };
    let (read, tampered, _tls) = tokio::join!(dialling, relay, listening);
    assert!((1..64).contains(&tampered));
    assert!(matches!(read.unwrap_err(), NetError::Lost { .. }));
}
