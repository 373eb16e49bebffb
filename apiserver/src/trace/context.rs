//! `traceparent` (W3C Trace Context): `00-TRACE-SPAN-FLAGS`.

use http::{HeaderMap, HeaderName, HeaderValue};
use ring::rand::{SecureRandom, SystemRandom};

/// Which trace, and which span of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Context {
    pub(crate) trace: [u8; 16],
    pub(crate) span: [u8; 8],
    /// Whether it is recorded.
    pub(crate) sampled: bool,
}

/// The header's name.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A random id; never all zero.
pub(crate) fn id<const N: usize>() -> Option<[u8; N]> {
    let mut id = [0; N];
    SystemRandom::new().fill(&mut id).ok()?;
    id[0] |= u8::from(id == [0; N]);
    Some(id)
}

impl Context {
    /// That of a request, if it has a valid one.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(TRACEPARENT)?.to_str().ok()?;
        let mut parts = text.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let version = hex::<1>(version)?[0];
        // Later versions may add parts.
        if version == 0xff || (version == 0 && parts.next().is_some()) {
            return None;
        }
        let (trace, span) = (hex::<16>(trace)?, hex::<8>(span)?);
        let sampled = hex::<1>(flags)?[0] & 1 == 1;
        (trace != [0; 16] && span != [0; 8]).then_some(Self { trace, span, sampled })
    }

    /// A new span, of this trace or of a new one; `None` without random numbers.
    pub(crate) fn new(of: Option<Self>) -> Option<Self> {
        let trace = match of {
            Some(of) => of.trace,
            None => id()?,
        };
        Some(Self { trace, span: id()?, sampled: false })
    }

    /// Whether chance takes it among so many of a million: by its id, so that all who record it decide alike.
    pub(crate) fn is_among(&self, per_million: u32) -> bool {
        let tail: [u8; 8] = self.trace[8..].try_into().unwrap_or_default();
        let bound = (u64::MAX >> 1) / 1_000_000 * u64::from(per_million);
        per_million >= 1_000_000 || u64::from_be_bytes(tail) >> 1 < bound
    }

    /// As it is told.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        let text = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        HeaderValue::try_from(format!("00-{}-{}-{:02x}", text(&self.trace), text(&self.span), u8::from(self.sampled))).ok()
    }
}

/// Lower-case hex of exactly so many bytes.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N || !digits.iter().all(|d| d.is_ascii_digit() || (b'a'..=b'f').contains(d)) {
        return None;
    }
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<Context> {
        Context::of(&[(TRACEPARENT, HeaderValue::from_str(text).unwrap())].into_iter().collect())
    }

    #[test]
    fn contexts_are_those_of_w3c() {
        let given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context = of(given).unwrap();
        assert!(context.sampled && context.header().unwrap() == given);
        assert!(of("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-more").is_some_and(|context| !context.sampled));
        let wrong = [
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333-01",
            "nonsense",
        ];
        assert!(wrong.iter().all(|text| of(text).is_none()));
    }

    #[test]
    fn about_as_many_are_recorded_as_is_asked_for() {
        let among = |rate| (0..10_000).filter(|_| Context::new(None).unwrap().is_among(rate)).count();
        assert_eq!((among(0), among(1_000_000)), (0, 10_000));
        assert!((4_500..5_500).contains(&among(500_000)));
    }
}
