//! An event as a line of JSON, its members in upstream's order. Where every request is written down twice, this is most of what that costs.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use coracle_schema::{
    json::{Members, write_text},
    time,
};
use parking_lot::Mutex;

use super::event::{Event, Outcome, Stage};
use crate::authn::User;

/// A line that was written, and where in it what the next one begins with ends.
#[derive(Clone, Debug)]
pub(super) struct Written {
    line: Bytes,
    /// The head, up to the stage.
    head: usize,
    /// What was asked, if that is as it was.
    asked: Option<Range<usize>>,
    /// When it came.
    received: Range<usize>,
}

/// Bytes of most events without objects.
const USUAL: usize = 1024;
/// Bytes by which the last event of a request is longer than its first one, mostly.
const MORE: usize = 320;

impl Written {
    /// What was asked is another thing than what was written of it.
    pub(super) fn ask_anew(&mut self) {
        self.asked = None;
    }
}

impl Event {
    /// The event as a line of JSON. What an earlier line of it held, and is as it was, is taken from there.
    pub(super) fn line(&mut self) -> Bytes {
        let before = self.written.as_ref();
        let mut line = Members(Vec::with_capacity(before.map_or(USUAL, |before| before.line.len() + MORE)));
        match before {
            Some(before) => line.0.extend_from_slice(&before.line[..before.head]),
            None => {
                line.0.extend_from_slice(br#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":""#);
                line.0.extend_from_slice(self.level.name().as_bytes());
                line.0.push(b'"');
                line.text(r#","auditID":"#, &self.audit_id);
            }
        }
        let head = line.0.len();
        line.0.extend_from_slice(br#","stage":""#);
        line.0.extend_from_slice(self.stage.name().as_bytes());
        line.0.push(b'"');
        let asked = line.0.len();
        match before.and_then(|before| Some(&before.line[before.asked.clone()?])) {
            Some(before) => line.0.extend_from_slice(before),
            None => self.asked(&mut line),
        }
        let asked = asked..line.0.len();
        self.answered(&mut line);
        let received = line.0.len();
        let came = before.is_none().then(|| time::micros(self.request_received_timestamp));
        match (before, &came) {
            (Some(before), _) => line.0.extend_from_slice(&before.line[before.received.clone()]),
            (None, came) => line.text(r#","requestReceivedTimestamp":"#, came.as_deref().unwrap_or_default()),
        }
        let received = received..line.0.len();
        let now = came.filter(|_| self.stage_timestamp == self.request_received_timestamp);
        line.text(r#","stageTimestamp":"#, &now.unwrap_or_else(|| time::micros(self.stage_timestamp)));
        if !self.annotations.is_empty() {
            line.object(r#","annotations":"#, |members| {
                self.annotations.iter().for_each(|(key, value)| write_text(value, members.key(key)));
            });
        }
        line.0.extend_from_slice(b"}\n");
        let line = Bytes::from(line.0);
        // What comes after the others comes soon, or it is the end of a watch, which may last for days.
        let another = self.stage == Stage::RequestReceived;
        self.written = another.then(|| Written { line: line.clone(), head, asked: Some(asked), received });
        line
    }

    /// What was asked, and by whom.
    fn asked(&self, line: &mut Members) {
        line.text(r#","requestURI":"#, &self.request_uri);
        line.text(r#","verb":"#, &self.info.verb);
        match &self.user {
            Some(user) => line.name(r#","user":"#).extend_from_slice(&shown(user)),
            None => line.object(r#","user":"#, |_| {}),
        }
        if let Some(user) = &self.impersonated_user {
            line.name(r#","impersonatedUser":"#).extend_from_slice(&shown(user));
        }
        if let Some(constraint) = self.impersonation_constraint {
            line.object(r#","authenticationMetadata":"#, |members| members.text(r#","impersonationConstraint":"#, constraint));
        }
        if !self.source_ips.is_empty() {
            line.texts(r#","sourceIPs":"#, &self.source_ips);
        }
        line.told(r#","userAgent":"#, &self.user_agent);
        if self.info.is_resource {
            line.object(r#","objectRef":"#, |members| self.object_ref().into_iter().for_each(|(name, text)| members.told(name, text)));
        }
    }

    /// How it ended, as far as it has.
    fn answered(&self, line: &mut Members) {
        match &self.response_status {
            Some(Outcome::Told(status)) => line.value(r#","responseStatus":"#, status),
            Some(Outcome::Code(code)) => line.object(r#","responseStatus":"#, |members| {
                members.name(r#","code":"#).extend_from_slice(code.to_string().as_bytes());
                members.object(r#","metadata":"#, |_| {});
            }),
            None => {}
        }
        for (name, object) in [(r#","requestObject":"#, &self.request_object), (r#","responseObject":"#, &self.response_object)] {
            if let Some(object) = object {
                line.value(name, object);
            }
        }
    }
}

/// A user, and how he stands in a line.
type Shown = (Arc<User>, Bytes);

/// Users as they stand in lines, at places of theirs: the same few ask again and again.
static SHOWN: [Mutex<Option<Shown>>; 61] = [const { Mutex::new(None) }; 61];

fn shown(user: &Arc<User>) -> Bytes {
    // Of what is held nothing changes, and nobody else has its address.
    let place = SHOWN[(Arc::as_ptr(user).addr() >> 4) % SHOWN.len()].try_lock();
    if let Some((_, shown)) = place.as_ref().and_then(|place| place.as_ref()).filter(|(known, _)| Arc::ptr_eq(known, user)) {
        return shown.clone();
    }
    let mut line = Members(vec![b'{']);
    user.tell(&mut line);
    line.0.push(b'}');
    let shown = Bytes::from(line.0);
    if let Some(mut place) = place {
        *place = Some((Arc::clone(user), shown.clone()));
    }
    shown
}
