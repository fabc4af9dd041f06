//! Who the peer is: mutual TLS 1.3 (RFC 8446) whose certificates are bare
//! Ed25519 public keys (RFC 7250), pinned to identity keys.
//!
//! There is no certificate, no TLS 1.2, no resumption and no early data; one
//! signature scheme and one key exchange are offered. TLS proves that the peer
//! holds the key it shows; whether that key may talk to us is decided in the
//! handshake, before anything else of the peer is read.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError,
    PeerMisbehaved, ServerConfig, SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::NetError;
use super::error::tls_error;
use crate::keys::{SecretKey, identity_from_spki};

const ALPN: &[u8] = b"beaverdam/1";

/// Decides in the handshake whether an identity key may have a link.
pub(super) type Allow = Arc<dyn Fn([u8; 32]) -> bool + Send + Sync>;

/// Our key in the form that TLS takes. It can sign, so treat it as the key.
/// The TLS library keeps the signing key in memory until the last connection
/// that uses it ends, and does not wipe it.
#[derive(Clone)]
pub struct Identity {
    own: [u8; 32],
    key: Arc<CertifiedKey>,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", super::error::hex(&self.own))
    }
}

impl Identity {
    /// From a node's or an owner's key.
    pub fn new(key: &SecretKey) -> Result<Self, NetError> {
        let public = key.public();
        let pkcs8 = key.identity_pkcs8();
        let signer = ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8.as_slice()))
            .map_err(|error| NetError::OwnKey(error.to_string()))?;
        let spki = CertificateDer::from(public.identity_spki());
        let mut provider = ring::default_provider();
        provider.cipher_suites.retain(|suite| suite.tls13().is_some());
        provider.kx_groups = vec![ring::kx_group::X25519];
        Ok(Self {
            own: *public.identity(),
            key: Arc::new(CertifiedKey::new(vec![spki], signer)),
            provider: Arc::new(provider),
        })
    }

    /// Our own identity key.
    pub fn own(&self) -> [u8; 32] {
        self.own
    }

    /// The settings of a dialler that accepts one peer only.
    fn client(&self, expected: [u8; 32]) -> Result<ClientConfig, NetError> {
        let verifier = Pinned { own: self.own, provider: self.provider.clone(), rule: Rule::Only(expected) };
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| NetError::OwnKey(error.to_string()))?
            .dangerous() // the name of all verifiers that are not for web certificates
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(self.key.clone())));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Ok(config)
    }

    /// The settings of a listener.
    pub(super) fn server(&self, allow: Allow) -> Result<Arc<ServerConfig>, NetError> {
        let verifier = Pinned { own: self.own, provider: self.provider.clone(), rule: Rule::Allow(allow) };
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| NetError::OwnKey(error.to_string()))?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(self.key.clone())));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(Arc::new(config))
    }

    /// Dials TLS over a stream and accepts only the expected peer. Whether the
    /// peer accepts us shows with the first read. The caller sets the deadline.
    pub(super) async fn connect<S>(
        &self,
        stream: S,
        expected: [u8; 32],
        address: &str,
    ) -> Result<client::TlsStream<S>, NetError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let connector = TlsConnector::from(Arc::new(self.client(expected)?));
        let name = ServerName::try_from("beaverdam").expect("a constant DNS name, which is never sent");
        match connector.connect(name, stream).into_fallible().await {
            Ok(tls) if tls.get_ref().1.alpn_protocol() == Some(ALPN) => Ok(tls),
            Ok(_) => Err(no_protocol(address)),
            Err((error, stream)) => {
                part(stream).await;
                Err(explain(error, address))
            }
        }
    }
}

/// Accepts TLS over a stream; returns the peer's identity key, proven and
/// allowed. The caller sets the deadline.
pub(super) async fn accept<S>(
    config: Arc<ServerConfig>,
    stream: S,
    address: &str,
) -> Result<(server::TlsStream<S>, [u8; 32]), NetError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let tls = match TlsAcceptor::from(config).accept(stream).into_fallible().await {
        Ok(tls) => tls,
        Err((error, stream)) => {
            part(stream).await;
            return Err(explain(error, address));
        }
    };
    let session = tls.get_ref().1;
    if session.alpn_protocol() != Some(ALPN) {
        return Err(no_protocol(address));
    }
    let shown = session.peer_certificates().and_then(|keys| keys.first());
    let peer = shown.and_then(|spki| identity_from_spki(spki)).ok_or_else(|| no_protocol(address))?;
    Ok((tls, peer))
}

/// Lets the alert of a failed handshake reach the peer: flushes, ends the
/// stream, and reads what is under way, since closing over unread bytes resets
/// the connection and the alert with it. Bounded, and errors no longer matter.
async fn part<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let goodbye = async {
        stream.flush().await?;
        stream.shutdown().await?;
        let mut rest = [0; 1024];
        for _ in 0..64 {
            if stream.read(&mut rest).await? == 0 {
                break;
            }
        }
        io::Result::Ok(())
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), goodbye).await;
}

fn no_protocol(address: &str) -> NetError {
    let ours = String::from_utf8_lossy(ALPN);
    NetError::Tls { peer: address.to_owned(), reason: format!("it does not agree on the protocol {ours}") }
}

/// The verdict of our own verifier travels through the TLS library and comes
/// out here; all else is told as the library tells it.
fn explain(error: io::Error, address: &str) -> NetError {
    let address = address.to_owned();
    match tls_error(&error) {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner)))) => {
            match inner.downcast_ref::<Verdict>() {
                Some(Verdict::Wrong { expected, found }) => {
                    NetError::WrongKey { address, expected: *expected, found: *found }
                }
                Some(Verdict::Stranger { found }) => NetError::Stranger { address, found: *found },
                Some(Verdict::Ourselves) => NetError::Ourselves { address },
                None => NetError::Tls { peer: address, reason: inner.to_string() },
            }
        }
        Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => no_protocol(&address),
        Some(rustls::Error::AlertReceived(AlertDescription::CertificateUnknown)) => NetError::Refused { peer: address },
        Some(other) => NetError::Tls { peer: address, reason: other.to_string() },
        None => NetError::Lost { peer: address, source: error },
    }
}

/// Accepts raw Ed25519 keys by a rule, and nothing else.
struct Pinned {
    own: [u8; 32],
    provider: Arc<CryptoProvider>,
    rule: Rule,
}

enum Rule {
    Only([u8; 32]),
    Allow(Allow),
}

#[derive(Debug, thiserror::Error)]
#[error("the key is not the one that this link is for")]
enum Verdict {
    Wrong { expected: [u8; 32], found: [u8; 32] },
    Stranger { found: [u8; 32] },
    Ourselves,
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pinned")
    }
}

impl Pinned {
    /// Public keys are public: the comparisons need not be constant-time.
    fn judge(&self, shown: &CertificateDer<'_>, more: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let found = identity_from_spki(shown).filter(|_| more.is_empty());
        let found = found.ok_or(CertificateError::BadEncoding)?;
        let verdict = match &self.rule {
            Rule::Only(expected) if found != *expected && found != self.own => {
                Verdict::Wrong { expected: *expected, found }
            }
            _ if found == self.own => Verdict::Ourselves,
            Rule::Allow(allow) if !allow(found) => Verdict::Stranger { found },
            _ => return Ok(()),
        };
        Err(CertificateError::Other(OtherError(Arc::new(verdict))).into())
    }

    fn proven(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if signature.scheme != SignatureScheme::ED25519 {
            return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        let spki = SubjectPublicKeyInfoDer::from(shown.as_ref());
        verify_tls13_signature_with_raw_key(message, &spki, signature, &self.provider.signature_verification_algorithms)
    }
}

/// TLS 1.2 is not offered, so the library never asks; if it did: no.
fn no_tls12() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge(shown, more).map(|()| ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _shown: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.proven(message, shown, signature)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.judge(shown, more).map(|()| ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _shown: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.proven(message, shown, signature)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests;
