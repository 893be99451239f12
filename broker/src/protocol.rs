//! Turns bytes into requests and responses into bytes: the border to clients.
//!
//! Nothing a client sends can make it panic or allocate more than a small multiple of what the
//! client has really sent: see [`shape`].
mod shape;
mod versions;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable};

pub(crate) use versions::{SUPPORTED, Supported};

/// Why a request closes its connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProtocolError {
    #[error("the request's header cannot be read")]
    Header,
    #[error("API key {0} is not supported")]
    Key(i16),
    #[error("version {version} of {key:?} is not supported")]
    Version { key: ApiKey, version: i16 },
    #[error("a {key:?} request of version {version} cannot be read")]
    Body { key: ApiKey, version: i16 },
    #[error("the response to {key:?} version {version} cannot be written: {why}")]
    Response {
        key: ApiKey,
        version: i16,
        why: String,
    },
}

/// What is known of a request before its body is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) key: ApiKey,
    pub(crate) version: i16,
    pub(crate) correlation_id: i32,
    pub(crate) client_id: String,
}

/// A request's envelope, and its body if the version can be read.
///
/// `ApiVersions` of an unknown version has no body: it is answered in version 0, so that the
/// client can choose again (KIP-511).
pub(crate) fn open(mut frame: Bytes) -> Result<(Envelope, Option<Bytes>), ProtocolError> {
    let word = |at| {
        frame
            .get(at..at + 2)
            .map(|word| i16::from_be_bytes([word[0], word[1]]))
    };
    let (number, version) = word(0).zip(word(2)).ok_or(ProtocolError::Header)?;
    let unknown = || ProtocolError::Key(number);
    let key = ApiKey::try_from(number).map_err(|()| unknown())?;
    let supported = SUPPORTED
        .iter()
        .find(|api| api.key == key)
        .ok_or_else(unknown)?;
    let readable = (supported.min..=supported.max).contains(&version);
    if !readable && key != ApiKey::ApiVersions {
        return Err(ProtocolError::Version { key, version });
    }
    let header_version = if readable {
        key.request_header_version(version)
    } else {
        1
    };
    let header = RequestHeader::decode(&mut frame, header_version)
        .map_err(|_not_a_header| ProtocolError::Header)?;
    let client_id = header
        .client_id
        .map(|id| id.to_string())
        .unwrap_or_default();
    let envelope = Envelope {
        key,
        version,
        correlation_id: header.correlation_id,
        client_id,
    };
    Ok((envelope, readable.then_some(frame)))
}

/// Reads a request's body.
pub(crate) fn decode<R: Decodable>(
    envelope: &Envelope,
    mut body: Bytes,
) -> Result<R, ProtocolError> {
    let (key, version) = (envelope.key, envelope.version);
    let fault = || ProtocolError::Body { key, version };
    let supported = SUPPORTED
        .iter()
        .find(|api| api.key == key)
        .ok_or_else(fault)?;
    if !shape::fits(supported, version, &body) {
        return Err(fault());
    }
    R::decode(&mut body, version).map_err(|_unreadable| fault())
}

/// Writes a response with its length in front.
pub(crate) fn encode<R: Encodable>(
    envelope: &Envelope,
    version: i16,
    response: &R,
) -> Result<BytesMut, ProtocolError> {
    let key = envelope.key;
    let write = || {
        let header = ResponseHeader::default().with_correlation_id(envelope.correlation_id);
        let header_version = key.response_header_version(version);
        let size = header.compute_size(header_version)? + response.compute_size(version)?;
        let mut bytes = BytesMut::with_capacity(4 + size);
        bytes.put_i32(i32::try_from(size)?);
        header.encode(&mut bytes, header_version)?;
        response.encode(&mut bytes, version)?;
        if bytes.len() == 4 + size {
            return Ok(bytes);
        }
        Err(std::io::Error::other("its size differs from the computed one").into())
    };
    write().map_err(|why: Box<dyn std::error::Error>| ProtocolError::Response {
        key,
        version,
        why: why.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn random_frames_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _opened = open(bytes.into());
        }
    }

    #[test]
    fn an_unknown_version_of_api_versions_is_opened_without_a_body() {
        let mut frame = BytesMut::new();
        frame.put_i16(18);
        frame.put_i16(99);
        frame.put_i32(7);
        frame.put_i16(-1);
        frame.put_slice(&[0, 1, 2]);
        let (envelope, body) = open(frame.freeze()).unwrap();
        assert_eq!((envelope.correlation_id, body), (7, None));
    }

    #[test]
    fn other_unknown_versions_and_keys_are_refused() {
        let frame = |key: i16, version: i16| {
            let mut frame = BytesMut::new();
            frame.put_i16(key);
            frame.put_i16(version);
            frame.put_i32(7);
            frame.put_i16(-1);
            frame.freeze()
        };
        assert!(matches!(
            open(frame(0, 2)),
            Err(ProtocolError::Version { .. })
        ));
        assert!(matches!(open(frame(17, 0)), Err(ProtocolError::Key(17))));
        assert!(matches!(open(frame(-4, 0)), Err(ProtocolError::Key(-4))));
    }
}
