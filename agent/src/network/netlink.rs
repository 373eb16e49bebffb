//! Netlink: building messages and exchanging them with the kernel, for rtnetlink (links, addresses, routes) and nfnetlink (nf_tables,
//! conntrack). Blocking and small; answers of the kernel take microseconds.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{self, AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

/// `NLM_F_REQUEST`.
pub(crate) const REQUEST: u16 = 0x1;
/// `NLM_F_ACK`.
pub(crate) const ACK: u16 = 0x4;
/// `NLM_F_EXCL`: fail when it exists.
pub(crate) const EXCL: u16 = 0x200;
/// `NLM_F_CREATE`.
pub(crate) const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`.
pub(crate) const APPEND: u16 = 0x800;
/// `NLM_F_REPLACE`.
pub(crate) const REPLACE: u16 = 0x100;
/// `NLM_F_DUMP`.
pub(crate) const DUMP: u16 = 0x300;
/// Attribute flag: the value is attributes.
const NESTED: u16 = 0x8000;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const HEADER: usize = 16;
/// How long the kernel may take to answer; it never needs this.
const PATIENCE: Duration = Duration::from_secs(10);

/// One message: header, family header, attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// An empty message of a type.
    pub(crate) fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | REQUEST).to_ne_bytes());
        Self { bytes }
    }

    /// Appends a family header.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// Appends an attribute.
    pub(crate) fn attr(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// Appends a string attribute with its final zero.
    pub(crate) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// Appends a 32-bit attribute in the machine's order (rtnetlink).
    pub(crate) fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// Appends a 32-bit attribute in network order (nfnetlink).
    pub(crate) fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// Appends an attribute whose value is what `fill` appends.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes[start + 2..start + 4].copy_from_slice(&(kind | NESTED).to_ne_bytes());
        self
    }

    /// Everything after the message header.
    #[cfg(test)]
    pub(crate) fn payload(&self) -> &[u8] {
        &self.bytes[HEADER..]
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// The attributes in some bytes: type without flags, value.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes([*bytes.first()?, *bytes.get(1)?]));
        let kind = u16::from_ne_bytes([*bytes.get(2)?, *bytes.get(3)?]) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A netlink socket in the network namespace of the thread that opened it.
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// rtnetlink.
    pub(crate) fn route() -> io::Result<Self> {
        // NETLINK_ROUTE is 0, which is "no protocol" for the socket call.
        Self::open(None)
    }

    /// nfnetlink.
    pub(crate) fn netfilter() -> io::Result<Self> {
        Self::open(Some(net::netlink::NETFILTER))
    }

    fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let fd = net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        net::bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        net::sockopt::set_socket_timeout(&fd, net::sockopt::Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Sends one message and waits for the kernel's yes or no.
    pub(crate) fn request(&mut self, mut message: Message) -> io::Result<()> {
        message.bytes[6] |= ACK.to_ne_bytes()[0];
        message.bytes[7] |= ACK.to_ne_bytes()[1];
        self.sequence += 1;
        let sequence = self.sequence;
        self.send(&message.finish(sequence))?;
        let mut result = Ok(());
        self.receive(sequence, |kind, payload| {
            if kind == ERROR {
                result = error_of(payload);
            }
            kind == ERROR
        })?;
        result
    }

    /// Sends one request and answers the payloads of all messages of the reply.
    pub(crate) fn query(&mut self, message: Message) -> io::Result<Vec<Vec<u8>>> {
        self.sequence += 1;
        let sequence = self.sequence;
        let dump = u16::from_ne_bytes([message.bytes[6], message.bytes[7]]) & DUMP == DUMP;
        self.send(&message.finish(sequence))?;
        let mut found = Vec::new();
        let mut result = Ok(());
        self.receive(sequence, |kind, payload| match kind {
            ERROR => {
                result = error_of(payload);
                true
            }
            DONE => true,
            _ => {
                found.push(payload.to_vec());
                !dump
            }
        })?;
        result.map(|()| found)
    }

    /// Sends messages as one nfnetlink transaction: all of it takes effect, or nothing.
    ///
    /// # Errors
    /// The index of the first message the kernel refused (`None`: the transaction as a whole) and its answer.
    pub(crate) fn transaction(&mut self, messages: Vec<Message>) -> Result<(), (Option<usize>, io::Error)> {
        let Some(last) = messages.len().checked_sub(1) else { return Ok(()) };
        let whole = |e: io::Error| (None, e);
        let first = self.sequence + 1;
        let mark = |kind| Message::new(kind, 0).raw(&[0, 0, 0, SUBSYSTEM_NFTABLES]);
        let mut bytes = mark(BATCH_BEGIN).finish(first);
        for (i, mut message) in messages.into_iter().enumerate() {
            if i == last {
                message.bytes[6] |= ACK.to_ne_bytes()[0];
                message.bytes[7] |= ACK.to_ne_bytes()[1];
            }
            self.sequence = first + 1 + u32::try_from(i).unwrap_or(u32::MAX);
            bytes.extend_from_slice(&message.finish(self.sequence));
        }
        let final_sequence = self.sequence;
        self.sequence += 1;
        bytes.extend_from_slice(&mark(BATCH_END).finish(self.sequence));
        self.make_room(bytes.len());
        self.send(&bytes).map_err(whole)?;
        let mut failure = None;
        self.receive_between(first, final_sequence, |sequence, kind, payload| {
            if kind == ERROR
                && let Err(error) = error_of(payload)
                && failure.is_none()
            {
                failure = Some((sequence.checked_sub(first + 1).map(|i| i as usize), error));
            }
            kind == ERROR && (sequence == final_sequence || sequence == first)
        })
        .map_err(whole)?;
        failure.map_or(Ok(()), Err)
    }

    /// A transaction must fit the send buffer whole.
    fn make_room(&self, bytes: usize) {
        use nix::sys::socket::{setsockopt, sockopt};
        if bytes > 100_000 {
            // Without CAP_NET_ADMIN nothing else would work either; a refusal shows when sending.
            let _ = setsockopt(&self.fd, sockopt::SndBufForce, &(bytes + bytes / 2));
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        net::sendto(&self.fd, bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        Ok(())
    }

    fn receive(&self, sequence: u32, mut each: impl FnMut(u16, &[u8]) -> bool) -> io::Result<()> {
        self.receive_between(sequence, sequence, |_, kind, payload| each(kind, payload))
    }

    /// Reads replies until `each` says it has seen the last.
    fn receive_between(&self, from: u32, to: u32, mut each: impl FnMut(u32, u16, &[u8]) -> bool) -> io::Result<()> {
        let mut buffer = vec![0u8; 64 << 10];
        loop {
            let n = match net::recv(&self.fd, &mut buffer[..], RecvFlags::empty()) {
                Ok((n, _)) => n,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer from the kernel over netlink")),
                Err(e) => return Err(e.into()),
            };
            let mut rest = &buffer[..n];
            while let Some(head) = rest.get(..HEADER) {
                let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
                let kind = u16::from_ne_bytes([head[4], head[5]]);
                let sequence = u32::from_ne_bytes([head[8], head[9], head[10], head[11]]);
                let payload = rest.get(HEADER..length).unwrap_or_default();
                if (from..=to).contains(&sequence) && each(sequence, kind, payload) {
                    return Ok(());
                }
                rest = rest.get(length.next_multiple_of(4).max(HEADER)..).unwrap_or_default();
            }
        }
    }
}

const SUBSYSTEM_NFTABLES: u8 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

fn error_of(payload: &[u8]) -> io::Result<()> {
    let code = payload.get(..4).map_or(0, |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nests_carry_their_length() {
        let mut message = Message::new(1, 0);
        message.text(3, "ab").nest(4, |m| {
            m.be32(1, 0x0102_0304);
        });
        let read: Vec<_> = attributes(message.payload()).collect();
        assert_eq!(read[0], (3, &b"ab\0"[..]));
        assert_eq!(attributes(read[1].1).collect::<Vec<_>>(), [(1, &[1, 2, 3, 4][..])]);
        assert_eq!(message.payload().len() % 4, 0);
    }
}
