//! The few protobuf messages of KMS v2 (`k8s.io/kms/apis/v2`) and of its values (`storage/value/encrypt/envelope/kmsv2/v2`).

use std::collections::BTreeMap;

use crate::wire::message::{Field, Writer, fields};

/// What a service adds to an encrypted key, by domain names.
pub(super) type Annotations = BTreeMap<String, Vec<u8>>;

/// A map, each entry a message of its own.
pub(super) fn put_annotations(mut message: Writer, number: u32, annotations: &Annotations) -> Writer {
    for (key, value) in annotations {
        message = message.message(number, &Writer::default().bytes(1, key.as_bytes()).bytes(2, value));
    }
    message
}

/// What a service answers to all three of its questions; each fills some of it.
#[derive(Default, Debug)]
pub(super) struct Said {
    pub(super) version: String,
    pub(super) health: String,
    pub(super) key_id: String,
    /// The key, encrypted or not.
    pub(super) key: Vec<u8>,
    pub(super) annotations: Annotations,
}

pub(super) fn status(message: &[u8]) -> Option<Said> {
    let mut said = Said::default();
    for field in fields(message)? {
        match field {
            (1, Field::Bytes(version)) => said.version = text(version)?,
            (2, Field::Bytes(health)) => said.health = text(health)?,
            (3, Field::Bytes(key_id)) => said.key_id = text(key_id)?,
            _ => {}
        }
    }
    Some(said)
}

pub(super) fn encrypted(message: &[u8]) -> Option<Said> {
    let mut said = Said::default();
    for field in fields(message)? {
        match field {
            (1, Field::Bytes(key)) => said.key = key.to_vec(),
            (2, Field::Bytes(key_id)) => said.key_id = text(key_id)?,
            (3, Field::Bytes(entry)) => annotation(entry, &mut said.annotations)?,
            _ => {}
        }
    }
    Some(said)
}

pub(super) fn decrypted(message: &[u8]) -> Option<Said> {
    let mut said = Said::default();
    for field in fields(message)? {
        if let (1, Field::Bytes(key)) = field {
            said.key = key.to_vec();
        }
    }
    Some(said)
}

/// A value as it is stored: data, and the key it is encrypted with, itself encrypted.
#[derive(Default, Clone, Debug, PartialEq, Eq)]
pub(super) struct Envelope {
    pub(super) data: Vec<u8>,
    pub(super) key_id: String,
    pub(super) source: Vec<u8>,
    pub(super) annotations: Annotations,
    /// 0: a key; 1: a seed keys are derived from.
    pub(super) source_type: u64,
}

impl Envelope {
    pub(super) fn read(message: &[u8]) -> Option<Self> {
        let mut envelope = Self::default();
        for field in fields(message)? {
            match field {
                (1, Field::Bytes(data)) => envelope.data = data.to_vec(),
                (2, Field::Bytes(key_id)) => envelope.key_id = text(key_id)?,
                (3, Field::Bytes(source)) => envelope.source = source.to_vec(),
                (4, Field::Bytes(entry)) => annotation(entry, &mut envelope.annotations)?,
                (5, Field::Number(of)) => envelope.source_type = of,
                _ => {}
            }
        }
        Some(envelope)
    }

    pub(super) fn write(&self) -> Vec<u8> {
        let Self { data, key_id, source, annotations, source_type } = self;
        let message = Writer::default().bytes(1, data).bytes(2, key_id.as_bytes()).bytes(3, source);
        put_annotations(message, 4, annotations).number(5, *source_type).finish()
    }
}

fn annotation(entry: &[u8], annotations: &mut Annotations) -> Option<()> {
    let (mut key, mut value) = (String::new(), Vec::new());
    for field in fields(entry)? {
        match field {
            (1, Field::Bytes(name)) => key = text(name)?,
            (2, Field::Bytes(bytes)) => value = bytes.to_vec(),
            _ => {}
        }
    }
    annotations.insert(key, value);
    Some(())
}

fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}
