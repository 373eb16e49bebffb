//! The few protobuf messages of KMS v2 (`k8s.io/kms/apis/v2`) and of its values (`storage/value/encrypt/envelope/kmsv2/v2`).

use std::collections::BTreeMap;

/// What a service adds to an encrypted key, by domain names.
pub(super) type Annotations = BTreeMap<String, Vec<u8>>;

/// A message that is written.
#[derive(Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    /// Text or bytes; what is empty is left out.
    pub(super) fn bytes(mut self, number: u32, value: &[u8]) -> Self {
        if !value.is_empty() {
            self.put(u64::from(number << 3 | 2));
            self.put(value.len() as u64);
            self.0.extend_from_slice(value);
        }
        self
    }

    pub(super) fn number(mut self, number: u32, value: u64) -> Self {
        if value != 0 {
            self.put(u64::from(number << 3));
            self.put(value);
        }
        self
    }

    /// A map, each entry a message of its own.
    pub(super) fn annotations(mut self, number: u32, annotations: &Annotations) -> Self {
        for (key, value) in annotations {
            let entry = Self::default().bytes(1, key.as_bytes()).bytes(2, value).finish();
            self = self.bytes(number, &entry);
        }
        self
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }

    fn put(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// A field that was read.
pub(super) enum Field<'m> {
    Number(u64),
    Bytes(&'m [u8]),
}

/// The fields of a message; `None` when it is none.
pub(super) fn fields(mut message: &[u8]) -> Option<Vec<(u64, Field<'_>)>> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let field = match tag & 7 {
            0 => Field::Number(varint(&mut message)?),
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                let (bytes, rest) = message.split_at_checked(length)?;
                message = rest;
                Field::Bytes(bytes)
            }
            1 => {
                message = message.get(8..)?;
                continue;
            }
            5 => {
                message = message.get(4..)?;
                continue;
            }
            _ => return None,
        };
        fields.push((tag >> 3, field));
    }
    Some(fields)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
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
        message.annotations(4, annotations).number(5, *source_type).finish()
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
