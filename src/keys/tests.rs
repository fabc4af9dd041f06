use std::fs;

use proptest::prelude::*;

use super::*;

fn refused<T>(result: Result<T, KeyError>) -> KeyError {
    result.err().expect("this must be refused")
}

#[test]
fn derived_keys_are_sound_distinct_and_reproducible() {
    let key = SecretKey::insecure_from_seed(7, "owner");
    assert_eq!(key.public(), SecretKey::insecure_from_seed(7, "owner").public());
    assert_ne!(key.public(), SecretKey::insecure_from_seed(7, "node 1").public());
    assert_ne!(key.public(), SecretKey::insecure_from_seed(8, "owner").public());
    assert_ne!(SecretKey::generate().unwrap().public(), SecretKey::generate().unwrap().public());
    let public = key.public();
    assert_eq!(PublicKey::new(*public.identity(), *public.sealing()).unwrap(), public);
    // No purpose's bytes are another's.
    let secrets =
        [*key.identity.as_bytes(), key.sealing().to_bytes().into(), key.dealing().0, key.keeping().0, *key.seed];
    for (i, a) in secrets.iter().enumerate() {
        assert!(secrets[..i].iter().all(|b| a != b));
    }
}

#[test]
fn a_frozen_seed_has_a_frozen_public_key() {
    let public = SecretKey::from_seed([42; 32]).public();
    insta::assert_snapshot!(public.to_string(), @"bd118439b7074667bbb18edc31c1201db9eb68d482636fc4935161f8750fe60be912404554f5f79e74debc5f8bf0dacba341e1c90bc5859b122d54a3ff527e066052df862ed");
}

#[test]
fn a_signature_holds_for_its_key_domain_and_message_only() {
    let (key, other) = (SecretKey::insecure_from_seed(1, "a"), SecretKey::insecure_from_seed(1, "b"));
    let signature = key.sign("manifest", b"bytes");
    key.public().verify("manifest", b"bytes", &signature).unwrap();
    for (public, domain, message) in [
        (other.public(), "manifest", &b"bytes"[..]),
        (key.public(), "receipt", b"bytes"),
        (key.public(), "manifest", b"bytez"),
        // The same concatenation, split elsewhere.
        (key.public(), "manifestb", b"ytes"),
        (key.public(), "manifes", b"tbytes"),
    ] {
        assert!(matches!(public.verify(domain, message, &signature), Err(KeyError::Signature { .. })));
    }
}

#[test]
fn a_signature_cannot_be_varied() {
    let key = SecretKey::insecure_from_seed(1, "a");
    let signature = key.sign("manifest", b"bytes");
    // S + ℓ is the same scalar: accepted by lax verifiers.
    let order = unhex::<32>("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010").unwrap();
    let (mut varied, mut carry) = (signature, 0u16);
    for (byte, add) in varied.0[32..].iter_mut().zip(order) {
        carry += u16::from(*byte) + u16::from(add);
        (*byte, carry) = (carry as u8, carry >> 8);
    }
    assert_ne!(varied, signature);
    assert!(key.public().verify("manifest", b"bytes", &varied).is_err());
}

#[test]
fn weak_low_order_and_uncanonical_halves_are_refused() {
    let good = SecretKey::insecure_from_seed(1, "a").public();
    let point = |identity: [u8; 32], sealing: [u8; 32]| match refused(PublicKey::new(identity, sealing)) {
        KeyError::Point(why) => why,
        other => panic!("{other}"),
    };
    let mut one = [0; 32];
    one[0] = 1; // y = 1 is the neutral element; u = 1 has order 4
    assert!(point(one, *good.sealing()).contains("weak"));
    assert!(point([0; 32], *good.sealing()).contains("weak")); // y = 0 has order 4
    let mut off = [0; 32];
    off[0] = 2;
    assert!(point(off, *good.sealing()).contains("no point"));
    let mut above = [0xff; 32];
    (above[0], above[31]) = (0xee, 0x7f); // p + 1: the neutral element once more
    assert!(point(above, *good.sealing()).contains("canonical"));

    let order_eight = unhex::<32>("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800").unwrap();
    for low in [[0; 32], one, order_eight] {
        assert!(point(*good.identity(), low).contains("low-order"));
    }
    assert!(point(*good.identity(), above).contains("canonical"));
    let mut high_bit = *good.sealing();
    high_bit[31] |= 0x80;
    assert!(point(*good.identity(), high_bit).contains("canonical"));
}

#[test]
fn wire_and_text_forms_come_back_and_are_exact() {
    let key = SecretKey::insecure_from_seed(3, "a");
    let (public, signature) = (key.public(), key.sign("manifest", b"x"));
    let text = public.to_string();
    assert_eq!(text.len(), 139);
    assert_eq!(text.parse::<PublicKey>().unwrap(), public);
    assert!(text.contains(&public.short()));
    assert_eq!(serde_json::to_string(&public).unwrap(), format!("{text:?}"));
    assert_eq!(serde_json::from_str::<PublicKey>(&format!("{text:?}")).unwrap(), public);
    let json = serde_json::to_string(&signature).unwrap();
    assert_eq!(serde_json::from_str::<Signature>(&json).unwrap(), signature);

    let bytes = postcard::to_stdvec(&(public, signature)).unwrap();
    assert_eq!(bytes.len(), 128);
    assert_eq!(postcard::from_bytes::<(PublicKey, Signature)>(&bytes).unwrap(), (public, signature));
    assert!(postcard::from_bytes::<PublicKey>(&[0; 64]).is_err());
}

proptest! {
    #[test]
    fn a_mistyped_key_is_noticed(at in 0usize..139, with in "[ -~]") {
        let text = SecretKey::insecure_from_seed(3, "a").public().to_string();
        let mut typo = text.clone();
        typo.replace_range(at..=at, &with);
        prop_assume!(typo != text);
        prop_assert!(matches!(typo.parse::<PublicKey>(), Err(KeyError::Text(_))));
        prop_assert!(text[..at].parse::<PublicKey>().is_err());
    }

    #[test]
    fn any_text_is_parsed_without_panic(text in "(bd1)?\\PC{0,140}") {
        prop_assert!(text.parse::<PublicKey>().is_err());
    }
}

#[test]
fn tls_forms_hold_the_identity() {
    let key = SecretKey::insecure_from_seed(5, "a");
    let spki = key.public().identity_spki();
    assert_eq!(identity_from_spki(&spki), Some(*key.public().identity()));
    let mut long = spki.clone();
    long.push(0);
    let mut other_algorithm = spki.clone();
    other_algorithm[8] = 0x6e; // X25519
    for bad in [&spki[1..], &spki[..43], &long, &other_algorithm, &[]] {
        assert_eq!(identity_from_spki(bad), None);
    }
}

#[cfg(feature = "net")]
#[test]
fn the_tls_library_reads_the_identity_and_signs_with_it() {
    use rustls::{SignatureScheme, crypto::ring::sign::any_eddsa_type, pki_types::PrivatePkcs8KeyDer};
    let key = SecretKey::insecure_from_seed(5, "a");
    let der = key.identity_pkcs8();
    assert_eq!(der.len(), 83);
    let tls = any_eddsa_type(&PrivatePkcs8KeyDer::from(der.as_slice())).unwrap();
    assert_eq!(tls.public_key().unwrap().as_ref(), key.public().identity_spki());
    let signature = tls.choose_scheme(&[SignatureScheme::ED25519]).unwrap().sign(b"handshake").unwrap();
    let signature = ed25519_dalek::Signature::from_slice(&signature).unwrap();
    key.identity.verifying_key().verify_strict(b"handshake", &signature).unwrap();
}

#[test]
fn key_files_come_back_with_and_without_a_passphrase() {
    let dir = tempfile::tempdir().unwrap();
    let key = SecretKey::insecure_from_seed(9, "owner");
    let (open, protected) = (dir.path().join("open.key"), dir.path().join("protected.key"));
    key.save(&open, None).unwrap();
    key.save(&protected, Some("correct horse")).unwrap();
    assert_eq!(SecretKey::load(&open, None).unwrap_or_else(|e| panic!("{e}")).public(), key.public());
    let back = SecretKey::load(&protected, Some("correct horse")).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(*back.seed, *key.seed);

    let hidden = fs::read_to_string(&protected).unwrap();
    assert!(hidden.contains("argon2id 65536 3 1 ") && !hidden.contains(&hex(&*key.seed)));
    assert!(matches!(refused(SecretKey::load(&protected, None)), KeyError::PassphraseNeeded { .. }));
    assert!(matches!(refused(SecretKey::load(&protected, Some("wrong"))), KeyError::WrongPassphrase { .. }));
    assert!(matches!(refused(SecretKey::load(&open, Some("x"))), KeyError::NotProtected { .. }));
    let empty = key.save(dir.path().join("empty.key"), Some(""));
    assert!(matches!(refused(empty), KeyError::EmptyPassphrase));
}

#[test]
fn a_key_file_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("k.key");
    SecretKey::insecure_from_seed(1, "a").save(&path, None).unwrap();
    let before = fs::read(&path).unwrap();
    let again = SecretKey::insecure_from_seed(2, "b").save(&path, None);
    assert!(matches!(refused(again), KeyError::Exists { .. }));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[cfg(unix)]
#[test]
fn a_key_file_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("k.key");
    SecretKey::insecure_from_seed(1, "a").save(&path, None).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    for mode in [0o640, 0o604, 0o620, 0o601] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = refused(SecretKey::load(&path, None));
        assert!(matches!(error, KeyError::Exposed { .. }) && error.to_string().contains("chmod 600"));
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    assert!(SecretKey::load(&path, None).is_ok());
}

/// Overwrites a key file with `text` and loads it.
fn load_text(text: &[u8], passphrase: Option<&str>) -> Result<SecretKey, KeyError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("k.key");
    SecretKey::insecure_from_seed(1, "a").save(&path, None).unwrap();
    fs::write(&path, text).unwrap();
    SecretKey::load(&path, passphrase)
}

#[test]
fn every_cut_of_a_key_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("k.key");
    SecretKey::insecure_from_seed(1, "a").save(&path, None).unwrap();
    let text = fs::read(&path).unwrap();
    for end in 0..text.len() {
        assert!(matches!(refused(load_text(&text[..end], None)), KeyError::Version { .. } | KeyError::Damaged { .. }));
    }
    assert!(load_text(&text, None).is_ok());
}

#[test]
fn changed_key_files_are_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let (key, other) = (SecretKey::insecure_from_seed(1, "a"), SecretKey::insecure_from_seed(2, "b"));
    let path = dir.path().join("k.key");
    key.save(&path, Some("pass")).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let load = |text: &str| refused(load_text(text.as_bytes(), Some("pass")));

    assert!(matches!(load(&text.replace("-v1", "-v2")), KeyError::Version { .. }));
    assert!(matches!(load(""), KeyError::Version { .. }));
    assert!(matches!(refused(load_text(&[0xff; 100], None)), KeyError::Version { .. }));
    // The header is associated data: another public key, or another cost, does not open.
    let renamed = text.replace(&key.public().to_string(), &other.public().to_string());
    assert!(renamed != text && matches!(load(&renamed), KeyError::WrongPassphrase { .. }));
    assert!(matches!(load(&text.replace("65536 3", "65536 1")), KeyError::WrongPassphrase { .. }));
    // A forged cost cannot take the machine's memory.
    for cost in ["4294967295 3 1", "65536 4294967295 1", "65536 3 65535", "0 0 0", "x 3 1", "-1 3 1"] {
        assert!(matches!(load(&text.replace("65536 3 1", cost)), KeyError::Damaged { .. }));
    }
    assert!(matches!(load(&text.replace("argon2id", "scrypt")), KeyError::Damaged { .. }));
    assert!(matches!(load(&format!("{text}more\n")), KeyError::Damaged { .. }));

    let mixed = format!("{}\npublic {}\nseed {}\n", file::HEADER, other.public(), hex(&*key.seed));
    assert!(matches!(refused(load_text(mixed.as_bytes(), None)), KeyError::Damaged { .. }));
    let missing = SecretKey::load(dir.path().join("none.key"), None);
    assert!(matches!(refused(missing), KeyError::Io { .. }));
}
