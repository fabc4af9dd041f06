//! Byte strings as serde's bytes: one copy, where a `Vec<u8>` by itself goes
//! byte by byte. The wire form is the same. For `#[serde(with = "…")]`.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes that somebody owns.
pub(crate) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_bytes(bytes)
}

pub(crate) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Vec<u8>, D::Error> {
    Ok(Octets::deserialize(from)?.0)
}

/// Several byte strings.
pub(crate) mod many {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(all: &[Vec<u8>], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(all.iter().map(|bytes| Borrowed(bytes)))
    }

    pub(crate) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Vec<Vec<u8>>, D::Error> {
        Ok(Vec::<Octets>::deserialize(from)?.into_iter().map(|octets| octets.0).collect())
    }
}

struct Borrowed<'a>(&'a [u8]);

impl Serialize for Borrowed<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(self.0)
    }
}

struct Octets(Vec<u8>);

impl<'a> Deserialize<'a> for Octets {
    fn deserialize<D: Deserializer<'a>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_bytes(Copied).map(Self)
    }
}

/// Copies what it is lent.
struct Copied;

impl Visitor<'_> for Copied {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }
    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_is_that_of_plain_vectors() {
        #[derive(Serialize, Deserialize, Debug, PartialEq)]
        struct New(#[serde(with = "super")] Vec<u8>, #[serde(with = "super::many")] Vec<Vec<u8>>);
        let (one, all) = (vec![7; 300], vec![vec![], vec![1, 2], vec![9; 200]]);
        let plain = postcard::to_stdvec(&(&one, &all)).unwrap();
        let new = New(one, all);
        assert_eq!(postcard::to_stdvec(&new).unwrap(), plain);
        assert_eq!(postcard::from_bytes::<New>(&plain).unwrap(), new);
        assert!(postcard::from_bytes::<New>(&plain[..plain.len() - 1]).is_err());
        // A length that nobody sent costs no memory.
        assert!(postcard::from_bytes::<New>(&[0xff, 0xff, 0xff, 0xff, 0x0f, 1]).is_err());
    }
}
